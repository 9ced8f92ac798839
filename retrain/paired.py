"""Two answers to the same prompts, before and after: how much changed, and what the number of prompts can tell.

Data model: counts of prompts that were right both times, only before, only after, never. The interval is Newcombe's
for a difference of paired proportions (1998, Statistics in Medicine 17, method 10), built from two Wilson intervals and
the correlation of the pairs; the p-value is McNemar's exact one. One look at a fixed number of prompts: no sequential
claim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from flywheel.statistics.win_rates import mcnemar_exact, wilson_interval


@dataclass(frozen=True)
class Paired:
    both: int
    only_before: int
    only_after: int
    neither: int

    @property
    def total(self) -> int:
        return self.both + self.only_before + self.only_after + self.neither

    @property
    def before(self) -> float:
        return (self.both + self.only_before) / self.total

    @property
    def after(self) -> float:
        return (self.both + self.only_after) / self.total

    @property
    def difference(self) -> float:
        return (self.only_after - self.only_before) / self.total

    def interval(self, *, alpha: float = 0.05) -> tuple[float, float]:
        """Lower and upper bound of after − before, two-sided; each alone is a one-sided bound at α / 2."""
        rates = self.after, self.before
        ends = [wilson_interval(round(rate * self.total), self.total, alpha=alpha) for rate in rates]
        (low_a, high_a), (low_b, high_b) = ends
        phi = self._correlation()
        down, up = rates[0] - low_a, high_a - rates[0]
        other_up, other_down = high_b - rates[1], rates[1] - low_b
        low = self.difference - sqrt(max(0.0, down**2 - 2 * phi * down * other_up + other_up**2))
        high = self.difference + sqrt(max(0.0, up**2 - 2 * phi * up * other_down + other_down**2))
        return low, high

    def _correlation(self) -> float:
        a, b, c, d = self.both, self.only_after, self.only_before, self.neither
        margins = (a + b) * (c + d) * (a + c) * (b + d)
        product: float = a * d - b * c
        if margins == 0:
            return 0.0
        if product > 0:  # continuity correction, as in method 10
            product = max(product - self.total / 2, 0.0)
        return float(product / sqrt(margins))

    def p_worse(self) -> float:
        """One-sided exact McNemar p-value against "not worse than before"."""
        if self.only_before <= self.only_after:
            return 1.0
        return mcnemar_exact(self.only_before, self.only_after) / 2


def compare(before: Sequence[bool], after: Sequence[bool]) -> Paired:
    """Count the pairs. Both sequences are in the order of the prompts."""
    cells = [(first, second) for first, second in zip(before, after, strict=True)]
    return Paired(*(cells.count(cell) for cell in ((True, True), (True, False), (False, True), (False, False))))
