"""Properties of the smaller statistics, and the inputs they refuse."""

from __future__ import annotations

from itertools import combinations
from math import comb, isnan, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.simulated_experiment import alarm_count, sample_ratio_alarms
from flywheel.statistics.agreement import cohen_kappa, fleiss_kappa, krippendorff_alpha
from flywheel.statistics.assignment import arm_index, unit_interval
from flywheel.statistics.bradley_terry import log_strengths
from flywheel.statistics.confidence import asymptotic_margin, e_value
from flywheel.statistics.fixed_horizon import holm, two_proportion_z, users_needed_per_arm
from flywheel.statistics.sample_ratio import ALARM_LOG_E, chi_square, log_e_value
from flywheel.statistics.win_rates import beta_binomial_log_e, pairs_needed, sign_test, wilson_interval

# The first example pays for the import of scipy.
unhurried = settings(deadline=None)


@unhurried
@given(st.text("aZ0 :-é語"), st.text("aZ0 :-é語"))
def test_place_is_always_below_one(salt: str, unit: str) -> None:
    assert 0 <= unit_interval(salt, unit) < 1


def test_the_largest_digest_is_still_below_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Largest:
        def digest(self) -> bytes:
            return b"\xff" * 32

    monkeypatch.setattr("hashlib.sha256", lambda _: Largest())
    assert 0.999 < unit_interval("salt", "user") < 1


def test_places_are_even_and_another_salt_shuffles_them() -> None:
    one = np.array([unit_interval("a", f"user-{n}") for n in range(5000)])
    two = np.array([unit_interval("b", f"user-{n}") for n in range(5000)])
    counts, _ = np.histogram(one, bins=10, range=(0, 1))
    assert chi_square(counts.tolist(), [1] * 10)[1] > 1e-4
    assert abs(float(np.corrcoef(one, two)[0, 1])) < 0.06


def test_ramp_moves_nobody_out_of_the_challenger() -> None:
    places = [unit_interval("salt", str(n)) for n in range(2000)]
    small, large = ([arm_index(place, [share, 1 - share]) for place in places] for share in (0.01, 0.5))
    assert all(after == 0 for before, after in zip(small, large, strict=True) if before == 0)
    assert 0 < small.count(0) < large.count(0)


def test_holdout_has_no_arm_and_full_shares_leave_nobody_out() -> None:
    assert arm_index(0.95, [0.5, 0.4]) is None
    assert arm_index(1 - 2**-53, [0.1] * 10) == 9
    with pytest.raises(ValueError, match="shares"):
        arm_index(0.5, [0.8, 0.3])


def test_sample_ratio_weighs_unequal_shares_and_refuses_senseless_ones() -> None:
    assert log_e_value([100, 9900], [0.01, 0.99]) < 0
    assert log_e_value([200, 9800], [0.01, 0.99]) > ALARM_LOG_E
    assert log_e_value([0, 0], [1, 1]) == 0
    assert chi_square([0, 0], [1, 1]) == (0.0, 1.0)
    for counts, shares in [([1], [1]), ([1, 2], [0, 1]), ([-1, 2], [1, 1]), ([1, 2], [1])]:
        with pytest.raises(ValueError, match=r"arm|share"):
            log_e_value(counts, shares)


def test_sample_ratio_under_continuous_looks_is_quiet_when_even_and_sees_52_to_48() -> None:
    rng = np.random.default_rng(7)
    even, _ = sample_ratio_alarms(rng, runs=2000, share=0.5)
    tilted, _ = sample_ratio_alarms(rng, runs=500, share=0.52)
    assert np.isfinite(even).mean() <= 0.002
    assert np.isfinite(tilted).mean() > 0.9
    assert np.median(tilted) < 14_000


def test_alarm_count_is_where_the_alarm_begins() -> None:
    count = int(alarm_count(1000))
    assert log_e_value([count - 1, 1001 - count], [1, 1]) < ALARM_LOG_E <= log_e_value([count, 1000 - count], [1, 1])


@pytest.mark.parametrize("n", [1, 7, 60])
def test_win_rate_evidence_is_one_on_average_when_sides_are_equal(n: int) -> None:
    chances = [comb(n, wins) / 2**n for wins in range(n + 1)]
    average = sum(chance * e_value(beta_binomial_log_e(w, n - w)) for w, chance in enumerate(chances))
    assert average == pytest.approx(1, abs=1e-9)


@unhurried
@given(st.integers(0, 400), st.integers(0, 400))
def test_win_rate_tests_treat_both_sides_alike(wins: int, losses: int) -> None:
    assert sign_test(wins, losses) == sign_test(losses, wins)
    assert beta_binomial_log_e(wins, losses) == pytest.approx(beta_binomial_log_e(losses, wins), abs=1e-9)


@unhurried
@given(st.integers(1, 500), st.data())
def test_wilson_interval_holds_the_rate_and_stays_in_bounds(total: int, data: st.DataObject) -> None:
    wins = data.draw(st.integers(0, total))
    low, high = wilson_interval(wins, total)
    assert 0 <= low <= wins / total + 1e-12
    assert wins / total - 1e-12 <= high <= 1


@unhurried
@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(a >= p for a, p in zip(adjusted, p_values, strict=True))
    for (p, a), (q, b) in combinations(zip(p_values, adjusted, strict=True), 2):
        assert p == q or (p < q) == (a < b) or a == b


def test_nothing_to_compare_is_no_difference_and_no_size() -> None:
    assert two_proportion_z(0, 10, 0, 10) == (0.0, 1.0)
    for refused in (lambda: users_needed_per_arm(0.5, 0.5), lambda: pairs_needed(0.5), lambda: wilson_interval(0, 0)):
        with pytest.raises(ValueError, match=r"rate|trial"):
            refused()
    with pytest.raises(ValueError, match="alpha"):
        asymptotic_margin(100, 0.25, r=0.3, alpha=1.5)


def test_confidence_sequence_covers_the_mean_at_all_looks_together() -> None:
    coins = np.random.default_rng(7).integers(0, 2, (1000, 2000))
    n = np.arange(1, 2001)
    means = np.cumsum(coins, axis=1) / n
    margins = np.array([asymptotic_margin(int(k), 0.25, r=0.3) for k in n])
    assert ((np.abs(means - 0.5) > margins)[:, 50:]).any(1).mean() <= 0.05


def test_agreement_is_one_when_reviewers_agree_and_unknown_when_all_say_the_same() -> None:
    assert cohen_kappa([[10, 0], [0, 5]]) == pytest.approx(1)
    assert fleiss_kappa([[3, 0], [0, 3]]) == pytest.approx(1)
    for level in ("nominal", "ordinal", "interval", "ratio"):
        assert krippendorff_alpha([[1, 2, 3], [1, 2, 3]], level=level) == pytest.approx(1)
    assert isnan(cohen_kappa([[9, 0], [0, 0]]))
    assert isnan(fleiss_kappa([[3, 0], [3, 0]]))
    assert isnan(krippendorff_alpha([[1, 1], [1, 1]]))
    assert isnan(krippendorff_alpha([[1, None], [None, 2]]))


@unhurried
@given(st.lists(st.lists(st.sampled_from([None, 0, 1, 4]), min_size=6, max_size=6), min_size=2, max_size=4))
def test_krippendorff_interval_alpha_equals_its_definition_pair_by_pair(rows: list[list[float | None]]) -> None:
    units = [[row[u] for row in rows if row[u] is not None] for u in range(6)]
    units = [unit for unit in units if len(unit) >= 2]
    everything = [float(v) for unit in units for v in unit if v is not None]
    observed = sum(
        2 * sum((a - b) ** 2 for a, b in combinations([float(v) for v in unit if v is not None], 2)) / (len(unit) - 1)
        for unit in units
    )
    expected = sum(2 * (a - b) ** 2 for a, b in combinations(everything, 2))
    alpha = krippendorff_alpha(rows, level="interval")
    if not expected:
        assert isnan(alpha)
    else:
        assert alpha == pytest.approx(1 - (len(everything) - 1) * observed / expected, abs=1e-9)


def test_bradley_terry_of_two_is_the_log_odds_and_lopsided_tables_settle() -> None:
    strengths = log_strengths([[0, 30], [10, 0]])
    assert strengths[0] - strengths[1] == pytest.approx(log(3))
    strengths = log_strengths([[0, 100_000, 5], [1, 0, 1], [1, 5000, 0]])
    assert strengths.sum() == pytest.approx(0, abs=1e-9)
    assert strengths[0] > strengths[2] > strengths[1]


def test_bradley_terry_settles_on_large_counts_and_where_a_full_newton_step_would_run_away() -> None:
    strengths = log_strengths([[0, 868_238], [790_890, 0]])
    assert strengths[0] - strengths[1] == pytest.approx(log(868_238 / 790_890), abs=1e-12)
    wins = [
        [0, 769_473, 265_780, 212, 3178],
        [250, 0, 0, 426, 7],
        [1169, 0, 0, 1747, 869_228],
        [1, 781, 16, 0, 0],
        [0, 0, 9, 18_294, 0],
    ]
    table = np.array(wins, dtype=np.float64)
    strengths = log_strengths(wins)
    chance = 1 / (1 + np.exp(strengths[None, :] - strengths[:, None]))
    assert ((table + table.T) * chance).sum(1) == pytest.approx(table.sum(1), rel=1e-9)


@pytest.mark.parametrize("wins", [[[0, 5], [0, 0]], [[0, 1, 0], [1, 0, 0], [0, 0, 0]]])
def test_bradley_terry_without_a_finite_answer_is_refused(wins: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="collect more pairs"):
        log_strengths(wins)
