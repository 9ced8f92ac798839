"""The promotion test and the guardrail: what they refuse, what they find, and how seldom they are wrong."""

from __future__ import annotations

from math import exp, inf, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from benchmarks.simulated_experiment import BEST_ARM, OURS, Z_TEST, guardrail_breaches, simulate, simulate_clustered
from flywheel.statistics.confidence import asymptotic_margin, sequence_scale
from flywheel.statistics.sequential import (
    PLANNED_EFFECT,
    PLANNED_SHARE,
    PLANNED_SPREAD,
    TIGHTEST_AT_USERS,
    UserMeans,
    guardrail_evidence,
    log_evidence,
    mean_variance,
    promotion_evidence,
)

# The first example pays for the import of scipy.
unhurried = settings(deadline=None)


def thumbs(users: int, up: float) -> UserMeans:
    return UserMeans(users, up, up)


def evidence(difference: float, variance: float) -> float:
    return float(log_evidence(np.asarray(difference), np.asarray(variance)))


@pytest.mark.parametrize(("difference", "variance"), [(0.05, 0.0004), (0.0, 0.001), (-0.03, 0.0004), (0.12, 0.004)])
def test_evidence_is_the_integral_it_claims_to_be(difference: float, variance: float) -> None:
    spread = PLANNED_SPREAD * PLANNED_EFFECT

    def integrand(effect: float) -> float:
        near = norm.pdf(effect, PLANNED_EFFECT, spread) / norm.sf(0, PLANNED_EFFECT, spread)
        wide = 2 * norm.pdf(effect, 0, PLANNED_EFFECT)
        likelihood = exp(effect * difference / variance - effect**2 / (2 * variance))
        return float((PLANNED_SHARE * near + (1 - PLANNED_SHARE) * wide) * likelihood)

    whole = sum(
        quad(integrand, low, high, epsabs=0, epsrel=1e-10)[0] for low, high in [(0, 0.05), (0.05, 0.1), (0.1, 1)]
    )
    assert exp(evidence(difference, variance)) == pytest.approx(whole, rel=1e-7)


@unhurried
@given(st.floats(-1, 0), st.floats(1e-7, 0.1))
def test_a_challenger_that_trails_is_never_shown(difference: float, variance: float) -> None:
    assert evidence(difference, variance) <= 1e-9


@unhurried
@given(st.floats(-0.9, 0.9), st.floats(1e-3, 0.1), st.floats(1e-7, 0.1))
def test_evidence_grows_with_the_difference(difference: float, more: float, variance: float) -> None:
    assert evidence(difference + more, variance) > evidence(difference, variance)


@unhurried
@given(st.lists(st.floats(0, 1), min_size=2, max_size=50))
def test_variance_of_the_mean_is_never_nothing_and_near_the_textbook_one(scores: list[float]) -> None:
    array, n = np.array(scores), len(scores)
    ours = mean_variance(float(n), float(array.sum()), float((array**2).sum()))
    assert ours == pytest.approx(array.var() / n + 0.5 / n**2)
    assert ours >= 0.5 / n**2 - 1e-12


@unhurried
@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_flipped_scores_turn_the_difference_round(champion: list[float], challenger: list[float]) -> None:
    arms = [UserMeans(len(s), sum(s), sum(x * x for x in s)) for s in (champion, challenger)]
    plain = promotion_evidence(*arms)
    turned = promotion_evidence(arms[1].flipped(), arms[0].flipped())
    assert turned.difference == pytest.approx(plain.difference, abs=1e-9)
    assert turned.log_e == pytest.approx(plain.log_e, abs=1e-6)


@pytest.mark.parametrize(("users", "ups"), [(200, 150), (1000, 750), (5000, 3700), (20_000, 15_000)])
def test_smallest_effect_is_where_the_verdict_turns(users: int, ups: int) -> None:
    champion = thumbs(users, ups)
    smallest = promotion_evidence(champion, champion).smallest_effect
    variance = 2 * mean_variance(float(users), float(ups), float(ups))
    assert evidence(smallest - 1e-6, variance) < log(100) <= evidence(smallest + 1e-6, variance)


def test_small_effects_show_too_when_there_are_many_users() -> None:
    assert promotion_evidence(thumbs(40_000, 30_000), thumbs(40_000, 30_000)).smallest_effect < 0.015
    assert promotion_evidence(thumbs(20_000, 15_000), thumbs(20_000, 15_400)).shown


def test_a_clear_winner_is_shown_and_the_evidence_stays_finite() -> None:
    seen = promotion_evidence(thumbs(50_000, 10_000), thumbs(50_000, 40_000))
    assert seen.shown
    assert seen.lower > 0.5
    assert 100 < seen.e_value < inf


def test_confidence_sequence_holds_the_difference_and_narrows() -> None:
    few = promotion_evidence(thumbs(200, 150), thumbs(200, 160))
    many = promotion_evidence(thumbs(2000, 1500), thumbs(2000, 1600))
    assert few.lower < few.difference < few.upper
    assert many.upper - many.lower < (few.upper - few.lower) / 2


def test_confidence_sequence_of_equal_arms_is_the_formula_for_that_many_pairs_of_users() -> None:
    seen = promotion_evidence(thumbs(500, 350), thumbs(500, 400))
    spread = (500 * mean_variance(500.0, 350.0, 350.0) + 500 * mean_variance(500.0, 400.0, 400.0)) ** 0.5
    margin = spread * asymptotic_margin(500, 1.0, r=sequence_scale(0.05, tightest_at=TIGHTEST_AT_USERS))
    assert seen.upper - seen.difference == pytest.approx(margin)
    assert seen.difference - seen.lower == pytest.approx(margin)


def test_guardrail_lets_a_small_loss_pass_and_stops_a_large_one() -> None:
    champion = thumbs(1000, 980)
    assert not guardrail_evidence(champion, thumbs(1000, 975), margin=0.01).breached
    assert guardrail_evidence(champion, thumbs(1000, 900), margin=0.01).breached
    assert not guardrail_evidence(thumbs(1000, 900), champion, margin=0.01).breached


def test_a_loss_within_the_margin_is_no_breach_however_many_users_show_it() -> None:
    champion, challenger = thumbs(50_000, 40_000), thumbs(50_000, 38_500)
    assert not guardrail_evidence(champion, challenger, margin=0.05).breached
    assert guardrail_evidence(champion, challenger, margin=0.0).breached


def test_guardrail_sees_an_error_rate_through_flipped_scores() -> None:
    errors = [thumbs(1000, 20), thumbs(1000, 100)]
    assert guardrail_evidence(errors[0].flipped(), errors[1].flipped(), margin=0.01).breached


def test_arms_without_a_single_error_are_no_evidence() -> None:
    perfect = thumbs(100, 100)
    assert not guardrail_evidence(perfect, thumbs(100, 98), margin=0.0).breached
    assert not promotion_evidence(thumbs(100, 98), perfect).shown


@pytest.mark.parametrize("arm", [(10, 11.0, 11.0), (10, 5.0, 6.0), (10, 5.0, 2.0), (-1, 0.0, 0.0)])
def test_sums_that_no_scores_can_have_are_refused(arm: tuple[int, float, float]) -> None:
    with pytest.raises(ValueError, match="cannot be means"):
        UserMeans(*arm)


def test_too_few_users_and_senseless_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="two or more"):
        promotion_evidence(thumbs(1, 1), thumbs(100, 70))
    with pytest.raises(ValueError, match="planned"):
        promotion_evidence(thumbs(100, 70), thumbs(100, 70), planned=0)
    with pytest.raises(ValueError, match="margin"):
        guardrail_evidence(thumbs(100, 70), thumbs(100, 70), margin=-0.1)


def test_looking_after_every_batch_promotes_few_equals_no_worse_and_nearly_all_better() -> None:
    rng = np.random.default_rng(7)
    equal = simulate(rng, runs=4000, champion=0.75, challenger=0.75)
    worse = simulate(rng, runs=2000, champion=0.75, challenger=0.73)
    better = simulate(rng, runs=2000, champion=0.75, challenger=0.80)
    assert equal.share(OURS) <= 1.3  # 1 is the bound; three standard errors of 4,000 runs are 0.5
    assert equal.share(Z_TEST) > 15
    assert worse.share(OURS) <= 0.15
    assert better.share(OURS) >= 99
    assert better.median(OURS) < better.median(BEST_ARM)
    assert better.users[OURS].min() >= 100


def test_users_who_keep_rating_and_differ_do_not_fool_the_per_user_tests() -> None:
    seen = simulate_clustered(np.random.default_rng(7), runs=500)
    assert seen.per_rating_z > 25
    assert seen.per_user_z < 8
    assert seen.promoted <= 2


def test_guardrail_at_its_margin_is_seldom_breached_under_continuous_looks() -> None:
    rng = np.random.default_rng(7)
    at_margin = guardrail_breaches(rng, runs=1000, champion=0.75, challenger=0.70, margin=0.05)
    beyond = guardrail_breaches(rng, runs=500, champion=0.75, challenger=0.65, margin=0.05)
    assert np.isfinite(at_margin).mean() <= 0.02
    assert np.isfinite(beyond).mean() > 0.95


def test_one_look_and_the_array_route_agree() -> None:
    champion, challenger = UserMeans(700, 520.5, 430.25), UserMeans(650, 500.0, 420.0)
    users, totals, squares = np.array([700.0, 650]), np.array([520.5, 500]), np.array([430.25, 420])
    difference = totals[1] / users[1] - totals[0] / users[0]
    expected = log_evidence(np.asarray(difference), mean_variance(users, totals, squares).sum())
    assert promotion_evidence(champion, challenger).log_e == pytest.approx(float(expected), abs=1e-12)
