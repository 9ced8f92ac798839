"""Do reviewers agree beyond chance? Cohen's and Fleiss' kappa, Krippendorff's alpha.

Data model: Cohen takes the table of two reviewers' verdicts, Fleiss counts per unit and category, Krippendorff one row
of values per reviewer with None (or NaN) where a reviewer did not judge. 1 is perfect agreement, 0 what chance gives;
where every verdict is the same nothing can be told, and the answer is NaN. Not covered: intervals, weighted kappa.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Level = Literal["nominal", "ordinal", "interval", "ratio"]


def cohen_kappa(table: Sequence[Sequence[float]]) -> float:
    """Two reviewers, `table[i][j]` units that the first put in category i and the second in j."""
    counts = np.asarray(table, dtype=np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or (counts < 0).any() or not counts.sum():
        raise ValueError("table must be square, of counts of at least 0, with at least one unit")
    shares = counts / counts.sum()
    expected = float(shares.sum(1) @ shares.sum(0))
    return _beyond_chance(float(np.trace(shares)), expected)


def fleiss_kappa(counts: Sequence[Sequence[int]]) -> float:
    """`counts[unit][category]` reviewers; every unit judged by the same number of them (Fleiss 1971)."""
    table = np.asarray(counts, dtype=np.float64)
    if table.ndim != 2 or not table.size or (table < 0).any():
        raise ValueError("counts must be a table of units by categories, of at least 0")
    raters = table.sum(1)
    if raters[0] < 2 or (raters != raters[0]).any():
        raise ValueError("every unit needs the same number of reviewers, two or more: use krippendorff_alpha instead")
    agreed = ((table**2).sum(1) - raters) / (raters * (raters - 1))
    return _beyond_chance(float(agreed.mean()), float(((table.sum(0) / table.sum()) ** 2).sum()))


def krippendorff_alpha(reviewers: Sequence[Sequence[float | None]], *, level: Level = "nominal") -> float:
    """One row per reviewer, one column per unit, None or NaN where there is no verdict (Krippendorff 2011).

    Categories are numbers; for `ratio` they must be at least 0. Units with fewer than two verdicts do not count.
    """
    values = np.array([[nan if v is None else v for v in row] for row in reviewers], dtype=np.float64)
    if values.ndim != 2:
        raise ValueError("every reviewer's row must have one place per unit; leave None where there is no verdict")
    categories = np.unique(values[~np.isnan(values)])
    if level == "ratio" and (categories < 0).any():
        raise ValueError("level 'ratio' needs values of at least 0: use 'interval'")
    per_unit = (values[:, :, None] == categories).sum(0).astype(np.float64)  # units × categories
    per_unit = per_unit[per_unit.sum(1) >= 2]
    if not len(per_unit):
        return nan
    pairable = per_unit.sum(1, keepdims=True)
    # Each unit's ordered pairs of verdicts by different reviewers, weighted so that a verdict counts once.
    coincidences = (per_unit / (pairable - 1)).T @ per_unit - np.diag((per_unit / (pairable - 1)).sum(0))
    totals = per_unit.sum(0)
    apart = _distances(categories, totals, level)
    expected = float(totals @ apart @ totals) / float(totals.sum() - 1)
    return nan if expected == 0.0 else 1.0 - float((coincidences * apart).sum()) / expected


def _distances(categories: Floats, totals: Floats, level: Level) -> Floats:
    """Squared distances between categories; `totals` are their frequencies, which the ordinal one counts between."""
    distances: Floats
    gap = categories[:, None] - categories[None, :]
    if level == "nominal":
        distances = (gap != 0).astype(np.float64)
    elif level == "ordinal":
        middle = np.cumsum(totals) - totals / 2
        distances = np.square(middle[:, None] - middle[None, :])
    elif level == "interval":
        distances = np.square(gap)
    elif level == "ratio":
        both = categories[:, None] + categories[None, :]
        distances = np.divide(gap, both, out=np.zeros_like(gap), where=both > 0)
        distances = np.square(distances)
    else:
        raise ValueError(f"level is {level!r}: give nominal, ordinal, interval or ratio")
    return distances


def _beyond_chance(observed: float, expected: float) -> float:
    return nan if expected >= 1.0 else (observed - expected) / (1.0 - expected)
