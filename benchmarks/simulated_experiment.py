"""Simulated users of an experiment, and the looks at which rules over them would have acted.

Data model: one run is two arms that grow by ten users each, looked at after every batch from 100 to 5,000 users per
arm; arrays are runs × looks. Every rule reads the same users, ours through `flywheel.statistics`. A user gives one
thumb, up with the arm's rate, except among the clustered users, who keep rating and differ from each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, log

import numpy as np
from numpy.typing import NDArray

from flywheel.statistics.sample_ratio import ALARM_LOG_E, log_e_value
from flywheel.statistics.sequential import PROMOTION_ALPHA, log_evidence, mean_variance

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

BATCH, FIRST_LOOK, HORIZON = 10, 100, 5000
USERS = np.arange(FIRST_LOOK, HORIZON + 1, BATCH, dtype=np.float64)
CHUNK = 1000  # runs held in memory together
OURS, Z_TEST, BEST_ARM = "ours", "peeked z-test", "best-arm rule"
Z_95 = 1.959964  # two-sided, 5 %


@dataclass(frozen=True)
class Outcome:
    """Per rule, the users per arm at which each run promoted the challenger; inf where it never did."""

    users: dict[str, Floats]

    def share(self, rule: str = OURS) -> float:
        return float(100 * np.isfinite(self.users[rule]).mean())

    def median(self, rule: str = OURS) -> float:
        """Over all runs, those that never promoted counted as later than all others; absent when they are the half."""
        return float(np.median(self.users[rule]))


def simulate(rng: np.random.Generator, *, runs: int, champion: float, challenger: float) -> Outcome:
    """Runs with one thumb per user, up with the arm's rate."""
    found: dict[str, list[Floats]] = {}
    for size in chunks(runs, CHUNK):
        ups = [thumbs_up(rng, size, rate) for rate in (champion, challenger)]
        difference = (ups[1] - ups[0]) / USERS
        variance = mean_variance(USERS, ups[0], ups[0]) + mean_variance(USERS, ups[1], ups[1])
        found.setdefault(OURS, []).append(first(log_evidence(difference, variance) >= -log(PROMOTION_ALPHA)))
        pooled = (ups[0] + ups[1]) / (2 * USERS)
        error = np.sqrt(np.maximum(2 * pooled * (1 - pooled) / USERS, 1e-12))
        found.setdefault(Z_TEST, []).append(promoted_if_better(np.abs(difference) / error > Z_95, difference))
        found.setdefault(BEST_ARM, []).append(promoted_if_better(best_arm_stops(ups, pooled), difference))
    return Outcome({rule: np.concatenate(parts) for rule, parts in found.items()})


def thumbs_up(rng: np.random.Generator, runs: int, rate: float) -> Floats:
    """Thumbs up so far in one arm, runs × looks."""
    batches = rng.binomial(BATCH, rate, (runs, HORIZON // BATCH))
    return np.cumsum(batches, axis=1, dtype=np.float64)[:, FIRST_LOOK // BATCH - 1 :]


def best_arm_stops(ups: list[Floats], pooled: Floats) -> Flags:
    """Generalised likelihood ratio against equal rates over ln((1 + ln t)/δ) at t users (Kaufmann and Koolen 2021)."""
    from scipy.special import kl_div  # noqa: PLC0415

    rates = [up / USERS for up in ups]
    ratio = sum(USERS * (kl_div(rate, pooled) + kl_div(1 - rate, 1 - pooled)) for rate in rates)
    stops: Flags = ratio > np.log((1 + np.log(2 * USERS)) / 0.05)
    return stops


def first(stops: Flags) -> Floats:
    """Users per arm at the first look that stops, inf where none does."""
    return np.where(stops.any(1), USERS[stops.argmax(1)], inf)


def promoted_if_better(stops: Flags, difference: Floats) -> Floats:
    """A two-sided rule ends at its first stop, and promotes if the challenger leads there."""
    leads = np.take_along_axis(difference, stops.argmax(1)[:, None], axis=1)[:, 0] > 0
    return np.where(leads, first(stops), inf)


def guardrail_breaches(
    rng: np.random.Generator, *, runs: int, champion: float, challenger: float, margin: float
) -> Floats:
    """Users per arm at which "at most `margin` worse" was given up, for rates of good answers; inf where never."""
    parts = []
    for size in chunks(runs, CHUNK):
        good = [thumbs_up(rng, size, rate) for rate in (champion, challenger)]
        variance = sum(mean_variance(USERS, up, up) for up in good)
        worse = (good[0] - good[1]) / USERS - margin
        parts.append(first(log_evidence(worse, np.asarray(variance)) >= -log(PROMOTION_ALPHA)))
    return np.concatenate(parts)


def chunks(runs: int, size: int) -> Iterator[int]:
    for start in range(0, runs, size):
        yield min(size, runs - start)


@dataclass(frozen=True)
class ClusteredRuns:
    """Shares of A/A runs, in %, in which a rule saw a difference that is not there."""

    per_user_z: float
    per_rating_z: float
    promoted: float


def simulate_clustered(rng: np.random.Generator, *, runs: int, users: int = 500, most: int = 29) -> ClusteredRuns:
    """A/A runs in which users come over time, keep rating (1–29 times each) and differ: own rates from a beta(3, 1)."""
    wrong = np.zeros(3)
    for size in chunks(runs, 100):
        shape = (size, 2, users)
        own, many = rng.beta(3, 1, shape)[..., None], rng.integers(1, most + 1, shape)[..., None]
        given = np.arange(1, most + 1) <= many
        ups = (rng.random((*shape, most)) < own) & given
        gaps = rng.exponential(0.02, (*shape, most))
        gaps[..., 0] = rng.random(shape)  # the first rating comes when the user does
        counts, totals, squares = at_looks(ups, given, np.cumsum(gaps, axis=-1))
        difference = totals[:, 1] / counts[:, 1] - totals[:, 0] / counts[:, 0]
        variance = mean_variance(counts, totals, squares).sum(1)
        big_enough = counts.min(1) >= FIRST_LOOK
        wrong[0] += (np.abs(difference[:, -1]) > Z_95 * np.sqrt(variance[:, -1])).sum()
        wrong[1] += (np.abs(per_rating_z(ups, given)) > Z_95).sum()
        wrong[2] += ((log_evidence(difference, variance) >= -log(PROMOTION_ALPHA)) & big_enough).any(1).sum()
    return ClusteredRuns(*(100 * wrong / runs).tolist())


def at_looks(ups: Flags, given: Flags, times: Floats) -> tuple[Floats, Floats, Floats]:
    """Users, sum and sum of squares of user means, runs × arms × 100 looks. Each rating moves its user's mean."""
    looks = 100
    mean = np.cumsum(ups, axis=-1) / np.arange(1, ups.shape[-1] + 1)
    before = np.concatenate([np.zeros_like(mean[..., :1]), mean[..., :-1]], axis=-1)
    arrives = np.zeros_like(mean)
    arrives[..., 0] = 1
    look = np.minimum((times * looks / 1.5).astype(np.int64), looks - 1)
    arms = ups.shape[0] * ups.shape[1]
    slot = (np.arange(arms).reshape(ups.shape[0], ups.shape[1], 1, 1) * looks + look)[given]

    def running(change: Floats) -> Floats:
        binned = np.bincount(slot, weights=change[given], minlength=arms * looks)
        return np.cumsum(binned.reshape(ups.shape[0], ups.shape[1], looks), axis=-1)

    # Before anybody came there is nothing to divide by; such looks are not counted as looks.
    return np.maximum(running(arrives), 1), running(mean - before), running(mean**2 - before**2)


def per_rating_z(ups: Flags, given: Flags) -> Floats:
    """z of every rating as if by another user, at the end."""
    up, all_ = ups.sum((2, 3)).astype(np.float64), given.sum((2, 3)).astype(np.float64)
    pooled = up.sum(1) / all_.sum(1)
    z: Floats = (up[:, 1] / all_[:, 1] - up[:, 0] / all_[:, 0]) / np.sqrt(pooled * (1 - pooled) * (1 / all_).sum(1))
    return z


def sample_ratio_alarms(
    rng: np.random.Generator, *, runs: int, share: float, most: int = 20_000, batch: int = 20
) -> tuple[Floats, Floats]:
    """Users at which ours, and chi² at p < .001 looked at as often, raised the alarm over a promised 50/50, or inf."""
    totals = np.arange(batch, most + 1, batch)
    alarms = (np.array([alarm_count(int(n)) for n in totals]), totals / 2 + 3.290527 * np.sqrt(totals) / 2)
    parts: tuple[list[Floats], list[Floats]] = ([], [])
    for size in chunks(runs, CHUNK):
        count = np.cumsum(rng.binomial(batch, share, (size, len(totals))), axis=1)
        larger = np.maximum(count, totals - count)
        for part, alarm in zip(parts, alarms, strict=True):
            raised = larger >= alarm
            part.append(np.where(raised.any(1), totals[raised.argmax(1)], inf))
    return np.concatenate(parts[0]), np.concatenate(parts[1])


def alarm_count(total: int) -> float:
    """The smallest count in the larger of two arms that raises the alarm among `total` users; inf if none does."""
    low, high = (total + 1) // 2, total + 1
    while low < high:
        middle = (low + high) // 2
        if middle <= total and log_e_value([middle, total - middle], [0.5, 0.5]) < ALARM_LOG_E:
            low = middle + 1
        else:
            high = middle
    return low if low <= total else inf
