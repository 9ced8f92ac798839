"""Did each arm get the share of users it was promised? If not, nothing else in the experiment may be believed.

Data model: users counted per arm, and the shares they were drawn with (normalised here). Two forms of one question:
Pearson's chi² for a single look at a time fixed beforehand, and an e-value that may be looked at after every user.
Not covered: why the ratio is off.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import lgamma, log

PRIOR_USERS = 1000.0  # how firmly "about as promised" is held; of 2 … 8000 this sees 52/48 most often by 20,000 users
ALARM_LOG_E = log(1000.0)  # false alarms ≤ 0.1 % over all looks together


def _normalised(counts: Sequence[int], shares: Sequence[float]) -> list[float]:
    if len(counts) != len(shares) or len(counts) < 2:
        raise ValueError(f"{len(counts)} counts, {len(shares)} shares: give one of each per arm, for two arms or more")
    if min(counts) < 0 or min(shares) <= 0:
        raise ValueError("counts must be at least 0 and every share above 0")
    return [share / sum(shares) for share in shares]


def chi_square(counts: Sequence[int], shares: Sequence[float]) -> tuple[float, float]:
    """Pearson's statistic Σ(o − e)²/e and its p-value with k − 1 degrees of freedom, for one look only."""
    from scipy.special import chdtrc  # noqa: PLC0415  a quarter of a second

    promised, total = _normalised(counts, shares), sum(counts)
    if not total:
        return 0.0, 1.0
    statistic = sum((n - total * w) ** 2 / (total * w) for n, w in zip(counts, promised, strict=True))
    return statistic, float(chdtrc(len(counts) - 1, statistic))


def log_e_value(counts: Sequence[int], shares: Sequence[float], *, prior_users: float = PRIOR_USERS) -> float:
    """Natural log of the anytime-valid e-value against the promised shares; alarm at ALARM_LOG_E.

    ln B(a + n) − ln B(a) − Σ nᵢ ln wᵢ with a Dirichlet prior aᵢ = prior_users · wᵢ (Lindon and Malek, NeurIPS 2022).
    prior_users = k with k arms of equal shares is the flat prior, which is slower to see a small tilt.
    """
    promised = _normalised(counts, shares)
    if prior_users <= 0:
        raise ValueError(f"prior_users is {prior_users}: give a weight above 0")
    evidence = lgamma(prior_users) - lgamma(prior_users + sum(counts))
    for n, w in zip(counts, promised, strict=True):
        evidence += lgamma(prior_users * w + n) - lgamma(prior_users * w) - n * log(w)
    return evidence
