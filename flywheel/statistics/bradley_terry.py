"""Strengths of adapters from who beat whom, when there are more than two.

Data model: a square table of wins, row beat column. Invariant: strengths are logs, sum to zero, and
σ(strength_i − strength_j) is the chance that i beats j. Not covered: ties, order effects.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def log_strengths(wins: Sequence[Sequence[float]], *, tolerance: float = 1e-8, steps: int = 100) -> Floats:
    """Maximum likelihood log-strengths by Newton's method, centred on zero.

    It squares the error at every step, so a last step below `tolerance` leaves far less than that.
    Raises ValueError where no maximum exists: somebody never lost to the rest, or two groups never met.
    """
    table = np.asarray(wins, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or (table < 0).any():
        raise ValueError("wins must be a square table of counts of at least 0, row beat column")
    table = table - np.diag(np.diag(table))
    _check_connected(table)
    met = table + table.T
    strengths = np.zeros(len(table))
    for _ in range(steps):
        chance = _chances(strengths)
        slope = table.sum(1) - (met * chance).sum(1)
        weight = met * chance * (1 - chance)
        # Strengths are known up to a constant; the added constant fixes it and makes the matrix invertible.
        curvature = np.diag(weight.sum(1)) - weight + weight.mean()
        step = np.linalg.solve(curvature, slope)
        # A full step can overshoot on lopsided tables; half a unit of log-odds cannot.
        strengths += step * min(1.0, 0.5 / max(float(np.abs(step).max()), 1e-300))
        if float(np.abs(step).max()) < tolerance:
            return strengths - float(strengths.mean())
    raise ValueError(f"strengths did not settle in {steps} steps: the table is too lopsided to rank")


def _chances(strengths: Floats) -> Floats:
    gap = strengths[:, None] - strengths[None, :]
    chance: Floats = 0.5 * (1 + np.tanh(gap / 2))
    return chance


def _check_connected(table: Floats) -> None:
    """Ford's condition: everybody reaches everybody along wins, or some strength runs to infinity."""
    reach = (table > 0) | np.eye(len(table), dtype=bool)
    for middle in range(len(table)):
        reach |= np.outer(reach[:, middle], reach[middle])
    if not reach.all():
        raise ValueError("no finite strengths: some group never lost to, or never met, the others; collect more pairs")
