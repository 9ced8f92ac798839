"""Anytime-valid building blocks for a mean: a confidence sequence and the two-sided mixture likelihood ratio.

Data model: n observations, their mean or difference, their variance. A confidence sequence may be drawn after every
observation: with probability 1 − α it covers the truth at all of them together (asymptotically, as n of the first look
grows). Not covered: the one-sided test that decides a promotion, in `sequential`.
"""

from __future__ import annotations

from math import exp, log, sqrt


def sequence_scale(alpha: float, *, tightest_at: float = 100.0) -> float:
    """r that makes `asymptotic_margin` tightest at intrinsic time n · variance = `tightest_at`."""
    _check_alpha(alpha)
    spread = -2 * log(alpha)
    return sqrt((spread + log(spread) + 1) / tightest_at)


def asymptotic_margin(n: float, variance: float, *, r: float, alpha: float = 0.05) -> float:
    """Half width of the two-sided asymptotic confidence sequence for a mean of n observations.

    sqrt((n v r² + 1) / (n² r²) · ln((n v r² + 1) / α²)): Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, Annals of
    Statistics 2024, Theorem 2.2.
    """
    _check_alpha(alpha)
    if n <= 0 or variance < 0 or r <= 0:
        raise ValueError(f"n {n} and r {r} must be above 0, variance {variance} at least 0")
    grown = n * variance * r * r + 1
    return sqrt(grown / (n * n * r * r) * log(grown / alpha**2))


def msprt_log_ratio(n: float, difference: float, variance: float, *, effect_variance: float) -> float:
    """Natural log of the mixture sequential probability ratio for a difference of two means over n users per arm.

    ½ ln(V / (V + nτ²)) + n²τ²d² / (2V(V + nτ²)), V = 2s² with s² one arm's variance (pass V): Johari, Koomen, Pekelis,
    Walsh, KDD 2017. Two-sided; reject "no difference" at ln(1/α).
    """
    if n <= 0 or variance <= 0 or effect_variance <= 0:
        raise ValueError("n, variance and effect_variance must be above 0")
    grown = variance + n * effect_variance
    return 0.5 * log(variance / grown) + (n * difference) ** 2 * effect_variance / (2 * variance * grown)


def e_value(log_e: float) -> float:
    """exp for display: a finite number also where the evidence is beyond what a float can hold."""
    return exp(min(log_e, 700.0))


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}: give an error rate between 0 and 1")
