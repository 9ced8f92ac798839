"""Is one side chosen more often than the other? Judged pairs and votes, wins against losses, ties left out.

Data model: counts of wins and losses. `beta_binomial_log_e` may be looked at after every judgment; the others answer
once, at a number of judgments fixed beforehand. Not covered: several judgments of one pair (take their majority first)
and judgments that cluster by reviewer.
"""

from __future__ import annotations

from math import lgamma, log, sqrt
from statistics import NormalDist

_NORMAL = NormalDist()


def _checked(first: int, second: int) -> int:
    if first < 0 or second < 0:
        raise ValueError(f"counts {first} and {second} must be at least 0")
    return first + second


def beta_binomial_log_e(wins: int, losses: int, *, a: float = 1.0, b: float = 1.0) -> float:
    """Natural log of the e-value against a win rate of 1/2; reject at ln(1/α).

    E = B(a + wins, b + losses) / B(a, b) · 2ⁿ with a beta(a, b) prior on the win rate.
    """
    total = _checked(wins, losses)
    after = lgamma(a + wins) + lgamma(b + losses) - lgamma(a + b + total)
    before = lgamma(a) + lgamma(b) - lgamma(a + b)
    return after - before + total * log(2.0)


def wilson_interval(wins: int, total: int, *, alpha: float = 0.05) -> tuple[float, float]:
    """Wilson's score interval for a rate, two-sided, without continuity correction."""
    if not 0 <= wins <= total or total == 0:
        raise ValueError(f"{wins} wins of {total}: give 0 ≤ wins ≤ total and at least one trial")
    z2 = _NORMAL.inv_cdf(1 - alpha / 2) ** 2
    rate = wins / total
    centre = rate + z2 / (2 * total)
    half = sqrt(z2 * (rate * (1 - rate) + z2 / (4 * total)) / total)
    # At 0 and at all wins the ends are exact in theory; rounding must not push them outside.
    return max(0.0, (centre - half) / (1 + z2 / total)), min(1.0, (centre + half) / (1 + z2 / total))


def sign_test(wins: int, losses: int) -> float:
    """Exact two-sided p-value of the binomial test against 1/2."""
    from scipy.special import bdtr  # noqa: PLC0415  a quarter of a second

    total = _checked(wins, losses)
    return min(1.0, 2.0 * float(bdtr(min(wins, losses), total, 0.5)))


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Exact p-value for two adapters on the same prompts, from the prompts where only one of them was right."""
    return sign_test(only_first, only_second)


def pairs_needed(win_rate: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Judged pairs that show a true `win_rate` against 1/2 (two-sided, normal approximation), not rounded.

    With fewer than about 200 judged pairs only a win rate of 60 % shows.
    """
    if not 0 < win_rate < 1 or win_rate == 0.5:
        raise ValueError(f"win_rate is {win_rate}: give a rate between 0 and 1 other than 1/2")
    z_alpha, z_power = _NORMAL.inv_cdf(1 - alpha / 2), _NORMAL.inv_cdf(power)
    return ((z_alpha * 0.5 + z_power * sqrt(win_rate * (1 - win_rate))) / (win_rate - 0.5)) ** 2
