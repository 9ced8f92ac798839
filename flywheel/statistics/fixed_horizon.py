"""Tests for one look at a sample whose size was fixed beforehand, and the size to fix.

Data model: successes and trials of two groups. Looking again after the test said no inflates its errors many times
over (`benchmarks.experiment` measures how much): a running experiment asks `sequential` instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import erfc, sqrt
from statistics import NormalDist

_NORMAL = NormalDist()


def two_proportion_z(first: int, first_total: int, second: int, second_total: int) -> tuple[float, float]:
    """z (positive where the second rate is higher, pooled variance) and the two-sided p-value."""
    if not (0 <= first <= first_total and 0 <= second <= second_total and first_total and second_total):
        raise ValueError("give 0 ≤ successes ≤ trials and at least one trial in each group")
    pooled = (first + second) / (first_total + second_total)
    spread = sqrt(pooled * (1 - pooled) * (1 / first_total + 1 / second_total))
    if spread == 0.0:  # all failed or all succeeded: no difference to see
        return 0.0, 1.0
    z = (second / second_total - first / first_total) / spread
    return z, erfc(abs(z) / sqrt(2))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given: reject where ≤ α keeps the family's error at α."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def users_needed_per_arm(rate: float, other_rate: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Users per arm that show `rate` against `other_rate` (two-sided z-test, pooled under the null), not rounded."""
    if rate == other_rate or not (0 <= rate <= 1 and 0 <= other_rate <= 1):
        raise ValueError(f"rates {rate} and {other_rate} must differ and lie between 0 and 1")
    z_alpha, z_power = _NORMAL.inv_cdf(1 - alpha / 2), _NORMAL.inv_cdf(power)
    pooled = (rate + other_rate) / 2
    apart = rate * (1 - rate) + other_rate * (1 - other_rate)
    return ((z_alpha * sqrt(2 * pooled * (1 - pooled)) + z_power * sqrt(apart)) / (rate - other_rate)) ** 2
