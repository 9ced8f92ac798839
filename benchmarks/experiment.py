"""How often an experiment is wrong, and how many users it needs: simulated runs through `flywheel.statistics`.

Our rule is looked at after every batch of ten users per arm, from 100 to 5,000. Beside it stand the z-test looked at as
often (it ends at p < .05 and promotes if the challenger leads) and a symmetric best-arm rule (Bernoulli GLR, δ = .05).
Unless said otherwise a user gives one thumb, up with 75 %. Not covered: traffic, databases, minimum times. A figure
that half of the runs never reach is absent.

    python -m benchmarks.experiment [--runs N] [--seed N] [--json]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from math import isfinite

import numpy as np

from benchmarks.figures import Figure, measured, show
from benchmarks.simulated_experiment import (
    BEST_ARM,
    Z_TEST,
    Floats,
    guardrail_breaches,
    sample_ratio_alarms,
    simulate,
    simulate_clustered,
)

BASE_RATE = 0.75


def promotion_figures(rng: np.random.Generator, runs: int) -> Iterator[Figure]:
    equal = simulate(rng, runs=runs, champion=BASE_RATE, challenger=BASE_RATE)
    worse = simulate(rng, runs=runs, champion=BASE_RATE, challenger=BASE_RATE - 0.02)
    better = simulate(rng, runs=runs, champion=BASE_RATE, challenger=BASE_RATE + 0.05)
    for peer in (Z_TEST, BEST_ARM):
        yield measured(
            "equal challenger promoted", equal.share(), "% of runs", peer=(peer, equal.share(peer)), target=("<=", 1)
        )
        yield measured(
            "2 points worse promoted", worse.share(), "% of runs", peer=(peer, worse.share(peer)), target=("<=", 0.1)
        )
        yield measured(
            "5 points better found", better.share(), "% of runs", peer=(peer, better.share(peer)), target=(">=", 99.5)
        )
        median = (peer, better.median(peer))
        yield measured("5 points better, median", better.median(), "users per arm", peer=median, target=("<=", 1120))


def other_rate_figures(rng: np.random.Generator, runs: int) -> Iterator[Figure]:
    """The same at other rates of thumbs up: the nearer to one half, the more users five points take."""
    for rate in (0.5, 0.6, 0.7, 0.8, 0.9):
        equal = simulate(rng, runs=runs, champion=rate, challenger=rate)
        better = simulate(rng, runs=runs, champion=rate, challenger=rate + 0.05)
        at = f"at {100 * rate:.0f} % up"
        yield measured(f"equal challenger promoted, {at}", equal.share(), "% of runs", target=("<=", 1))
        yield measured(f"5 points better found, {at}", better.share(), "% of runs")
        yield measured(f"5 points better, median, {at}", better.median(), "users per arm")


def clustered_figures(rng: np.random.Generator, runs: int) -> Iterator[Figure]:
    seen = simulate_clustered(rng, runs=runs)
    peer = ("per-rating z-test", seen.per_rating_z)
    figure = "1–29 ratings a user, A/A wrong: per-user z-test, one look"
    yield measured(figure, seen.per_user_z, "% of runs", peer=peer, target=("<=", 6))
    figure = "1–29 ratings a user, A/A wrong: promoted, 100 looks"
    yield measured(figure, seen.promoted, "% of runs", peer=peer, target=("<=", 1))


def guardrail_figures(rng: np.random.Generator, runs: int) -> Iterator[Figure]:
    """2 % of the champion's answers fail, and 1 point more is tolerated."""
    at_margin = guardrail_breaches(rng, runs=runs, champion=0.98, challenger=0.97, margin=0.01)
    beyond = guardrail_breaches(rng, runs=runs, champion=0.98, challenger=0.92, margin=0.01)
    yield measured("guardrail: at the margin, breached", share(at_margin), "% of runs", target=("<=", 1))
    yield measured("guardrail: 5 points beyond the margin, breached", share(beyond), "% of runs")
    yield measured("guardrail: 5 points beyond the margin, median", float(np.median(beyond)), "users per arm")


def sample_ratio_figures(rng: np.random.Generator, runs: int) -> Iterator[Figure]:
    even, even_peer = sample_ratio_alarms(rng, runs=runs, share=0.5)
    tilted, tilted_peer = sample_ratio_alarms(rng, runs=runs, share=0.52)
    name = "peeked chi², p < .001"
    peer = (name, share(even_peer))
    yield measured("sample ratio: false alarms", share(even), "% of runs", peer=peer, target=("<=", 0.1))
    peer = (name, share(tilted_peer))
    yield measured("sample ratio: 52/48 found by 20,000 users", share(tilted), "% of runs", peer=peer)
    peer = (name, float(np.median(tilted_peer)))
    median = float(np.median(tilted))
    yield measured("sample ratio: 52/48 found, median", median, "users", peer=peer, target=("<=", 20_000))


def share(users: Floats) -> float:
    """Runs, in %, in which it happened at all."""
    return float(100 * np.isfinite(users).mean())


def all_figures(runs: int, seed: int) -> Iterator[Figure]:
    for figures in (promotion_figures, other_rate_figures, clustered_figures, guardrail_figures, sample_ratio_figures):
        # Each part has its own stream, so that one more part does not change the others' numbers.
        rng = np.random.default_rng([seed, *figures.__name__.encode()])
        yield from (figure for figure in figures(rng, runs) if isfinite(figure.value))


def main() -> None:
    parser = argparse.ArgumentParser(description="How often an experiment is wrong, and how many users it needs.")
    parser.add_argument("--runs", type=int, default=10_000, help="simulated runs behind each figure (default 10,000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print the figures as a JSON list")
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error(f"--runs is {arguments.runs}: give at least 1")
    figures = list(all_figures(arguments.runs, arguments.seed))
    show(figures, f"Experiments, {arguments.runs:,} simulated runs each", as_json=arguments.json)


if __name__ == "__main__":
    main()
