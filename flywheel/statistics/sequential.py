"""Is the challenger better, or too much worse? One-sided tests that may be looked at after every rating.

Data model: per arm the number of users, the sum and the sum of squares of their mean scores in [0, 1], so a user who
rates thirty times counts once. The difference of the arms' means and its variance give an e-value against "the
challenger is not better"; evidence is shown when it reaches 1/α, and however often one looks, an equal challenger gets
there with probability ≤ α. It decides the first time it gets there: it may sink again, so the caller keeps the verdict.

Formula: with information 1/variance as its clock the difference is a Brownian motion with the true effect as drift,
also when arms are unequal or users keep rating (Jennison and Turnbull 1997, canonical distribution). Then
exp(δ·d/var − δ²/(2·var)) is a supermartingale for every δ > 0 and every true effect ≤ 0, and so is any mixture over
δ > 0 (Robbins 1970; Howard, Ramdas, McAuliffe, Sekhon 2021, one-sided normal mixtures). Ours puts 97 % on a normal
around the effect that the experiment was planned for, cut off at zero, and 3 % on a half-normal as wide as that effect,
so that smaller effects show too, later. Variances are estimated, so the guarantee is asymptotic: give each arm its
minimum (100 users) first.

Not covered: minimum users and minimum time, traffic, verdicts. They belong to the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt
from typing import overload

import numpy as np
from numpy.typing import NDArray

from flywheel.statistics.confidence import asymptotic_margin, e_value, sequence_scale

Floats = NDArray[np.float64]

PROMOTION_ALPHA = 0.01
"""A bound on equal challengers promoted, at any number of looks and users. 0.02 promotes 1.7 times as many."""
PLANNED_EFFECT = 0.05
PLANNED_SHARE, PLANNED_SPREAD = 0.97, 0.15  # found by search: fewest users for the planned effect at this alpha
TIGHTEST_AT_USERS = 1000.0  # users per arm at which the displayed confidence sequence is narrowest for its alpha


@dataclass(frozen=True)
class UserMeans:
    """One arm: its users, and the sum and sum of squares of their mean scores, each in [0, 1], higher is better."""

    users: int
    total: float
    squares: float

    def __post_init__(self) -> None:
        slack = 1e-9 * max(1, self.users)  # running sums round
        floor = self.total**2 / self.users if self.users else 0.0
        if self.users < 0 or not (floor - slack <= self.squares <= self.total + slack <= self.users + 2 * slack):
            raise ValueError(
                f"{self.users} users with total {self.total} and squares {self.squares} cannot be means in [0, 1]"
            )

    def flipped(self) -> UserMeans:
        """The same users scored 1 − score: turns an error rate, where higher is worse, into a score."""
        return UserMeans(self.users, self.users - self.total, self.users - 2 * self.total + self.squares)


@dataclass(frozen=True)
class PromotionEvidence:
    """What two arms say about the difference challenger − champion, at this look."""

    difference: float
    lower: float
    """Ends of the two-sided confidence sequence, for display. It asks a harder question than `shown` does, so it may
    still hold zero when the challenger is shown to be better."""
    upper: float
    log_e: float
    shown: bool
    """The challenger is better."""
    smallest_effect: float
    """The smallest difference that would have been shown with these users: below it, silence says nothing."""

    @property
    def e_value(self) -> float:
        """Evidence against "not better"; shown from 1/alpha on."""
        return e_value(self.log_e)


@dataclass(frozen=True)
class GuardrailEvidence:
    """What two arms say against "the challenger is at most `margin` worse"."""

    difference: float
    log_e: float
    breached: bool

    @property
    def e_value(self) -> float:
        """Evidence against "at most the margin worse"; breached from 1/alpha on."""
        return e_value(self.log_e)


def promotion_evidence(
    champion: UserMeans,
    challenger: UserMeans,
    *,
    alpha: float = PROMOTION_ALPHA,
    planned: float = PLANNED_EFFECT,
    display_alpha: float = 0.05,
) -> PromotionEvidence:
    """Test "the challenger is not better" with both arms as they stand now. Each arm needs two users or more."""
    difference, variance = _difference(champion, challenger)
    evidence = float(log_evidence(np.asarray(difference), np.asarray(variance), planned=planned))
    margin = _display_margin(champion.users, challenger.users, variance, display_alpha)
    return PromotionEvidence(
        difference=difference,
        lower=max(-1.0, difference - margin),
        upper=min(1.0, difference + margin),
        log_e=evidence,
        shown=evidence >= -log(alpha),
        smallest_effect=smallest_effect(variance, alpha=alpha, planned=planned),
    )


def guardrail_evidence(
    champion: UserMeans, challenger: UserMeans, *, margin: float, alpha: float = 0.01, planned: float = PLANNED_EFFECT
) -> GuardrailEvidence:
    """Test "the challenger is at most `margin` worse": breached means worse by more, to be acted on at once.

    Scores are higher-is-better; flip rates of errors, cut answers or slow ones on both arms. `planned` is the harm
    beyond the margin to be seen soonest.
    """
    if margin < 0:
        raise ValueError(f"margin is {margin}: give how much worse may be tolerated, at least 0")
    difference, variance = _difference(champion, challenger)
    evidence = float(log_evidence(np.asarray(-difference - margin), np.asarray(variance), planned=planned))
    return GuardrailEvidence(difference=difference, log_e=evidence, breached=evidence >= -log(alpha))


@overload
def mean_variance(users: float, total: float, squares: float) -> float: ...
@overload
def mean_variance(users: Floats, total: Floats, squares: Floats) -> Floats: ...
def mean_variance(users: float | Floats, total: float | Floats, squares: float | Floats) -> float | Floats:
    """Variance of one arm's mean score.

    Half a unit of squares, that of one user at 0 and one at 1, is added: an arm without a single error yet is not an
    arm that cannot err. It replaces the usual − 1 in the divisor and on average makes the variance no smaller.
    """
    spread = np.maximum(squares - total * total / users, 0.0)
    result: float | Floats = (spread + 0.5) / (users * users)
    return result


def log_evidence(difference: Floats, variance: Floats, *, planned: float = PLANNED_EFFECT) -> Floats:
    """Natural log of the e-value against "true difference ≤ 0", elementwise; increasing in `difference`."""
    if planned <= 0:
        raise ValueError(f"planned is {planned}: give the improvement the experiment is to find, above 0")
    near = _truncated_normal_mixture(difference, variance, planned, PLANNED_SPREAD * planned)
    wide = _truncated_normal_mixture(difference, variance, 0.0, planned)
    return np.logaddexp(log(PLANNED_SHARE) + near, log(1 - PLANNED_SHARE) + wide)


def _truncated_normal_mixture(difference: Floats, variance: Floats, centre: float, spread: float) -> Floats:
    """ln ∫ exp(δd/v − δ²/2v) over δ from a normal (centre, spread²) cut off below zero: conjugate, hence closed."""
    from scipy.special import log_ndtr  # noqa: PLC0415  a quarter of a second

    prior = spread * spread
    posterior = variance * prior / (variance + prior)
    mean = posterior * (difference / variance + centre / prior)
    exponent = difference**2 / (2 * variance) - (difference - centre) ** 2 / (2 * (variance + prior))
    mass: Floats = log_ndtr(mean / np.sqrt(posterior)) - log_ndtr(centre / spread)
    return mass + 0.5 * np.log(variance / (variance + prior)) + exponent


def smallest_effect(variance: float, *, alpha: float = PROMOTION_ALPHA, planned: float = PLANNED_EFFECT) -> float:
    """The difference at which the evidence reaches 1/alpha for this variance of the difference; 1 if none does."""
    grid, low, high = np.asarray(variance), 0.0, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        if float(log_evidence(np.asarray(middle), grid, planned=planned)) >= -log(alpha):
            high = middle
        else:
            low = middle
    return high


def _difference(champion: UserMeans, challenger: UserMeans) -> tuple[float, float]:
    if min(champion.users, challenger.users) < 2:
        raise ValueError(f"{champion.users} and {challenger.users} users: each arm needs two or more to compare means")
    variance = sum(mean_variance(float(arm.users), arm.total, arm.squares) for arm in (champion, challenger))
    return challenger.total / challenger.users - champion.total / champion.users, variance


def _display_margin(champion_users: int, challenger_users: int, variance: float, alpha: float) -> float:
    """The asymptotic sequence in units of one pair of users' spread: it is tightest at a number of users then."""
    pairs = 2 / (1 / champion_users + 1 / challenger_users)
    r = sequence_scale(alpha, tightest_at=TIGHTEST_AT_USERS)
    return sqrt(variance * pairs) * asymptotic_margin(pairs, 1.0, r=r, alpha=alpha)
