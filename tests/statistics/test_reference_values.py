"""Known answers, computed with scipy, statsmodels, krippendorff and choix. Absolute error 1e-9, iterative fits 1e-6."""

from __future__ import annotations

from math import exp, log

import pytest

from flywheel.statistics.agreement import Level, cohen_kappa, fleiss_kappa, krippendorff_alpha
from flywheel.statistics.assignment import unit_interval
from flywheel.statistics.bradley_terry import log_strengths
from flywheel.statistics.confidence import asymptotic_margin, msprt_log_ratio, sequence_scale
from flywheel.statistics.fixed_horizon import holm, two_proportion_z, users_needed_per_arm
from flywheel.statistics.preference_loss import dpo_loss
from flywheel.statistics.sample_ratio import chi_square, log_e_value
from flywheel.statistics.win_rates import (
    beta_binomial_log_e,
    mcnemar_exact,
    pairs_needed,
    sign_test,
    wilson_interval,
)


def near(value: float, *, printed: float = 0.0) -> object:
    """1e-9, or what the last digit leaves open where the reference prints fewer."""
    return pytest.approx(value, rel=0, abs=max(1e-9, printed))


@pytest.mark.parametrize(
    ("salt", "unit", "place"),
    [("exp-1", "user-1", 0.5797495389), ("exp-1", "user-2", 0.7571246903), ("exp-2", "user-1", 0.7099091637)],
)
def test_hash_places_a_unit(salt: str, unit: str, place: float) -> None:
    assert unit_interval(salt, unit) == near(place)


def test_sample_ratio_chi_square() -> None:
    assert chi_square([1000, 1200], [0.5, 0.5])[1] == near(2.007865612426481e-05)
    assert chi_square([600, 560], [1, 1])[1] == near(0.24021865561698488)
    assert chi_square([400, 310, 500], [0.34, 0.33, 0.33])[1] == near(1.2025947024945691e-10)
    assert chi_square([821588, 815482], [0.5, 0.5])[0] == near(22.77436884189436)


@pytest.mark.parametrize(
    ("counts", "log_e"), [([1000, 1200], 5.4767), ([600, 560], -2.6137), ([821588, 815482], 4.4588)]
)
def test_sample_ratio_evidence_with_a_flat_prior(counts: list[int], log_e: float) -> None:
    assert log_e_value(counts, [0.5, 0.5], prior_users=2) == near(log_e, printed=5e-5)


@pytest.mark.parametrize(
    ("wins", "total", "e", "printed"),
    [
        (60, 100, 0.9130497785, 0),
        (65, 100, 11.46139395, 5e-9),
        (70, 100, 427.3066469, 5e-8),
        (550, 1000, 5.897386332, 1e-9),
        (10, 10, 93.09090909, 5e-9),
        (50, 100, 0.1244011178, 0),
    ],
)
def test_win_rate_evidence(wins: int, total: int, e: float, printed: float) -> None:
    assert exp(beta_binomial_log_e(wins, total - wins)) == near(e, printed=printed)


def test_asymptotic_confidence_sequence() -> None:
    r = sequence_scale(0.05)
    assert r == near(0.2963410269947932)
    for n, margin in [(100, 0.16133336613507268), (1000, 0.048838022903425246), (10000, 0.016911117118946228)]:
        assert asymptotic_margin(n, 0.25, r=r) == near(margin)
    assert asymptotic_margin(100, 0.25, r=sequence_scale(0.01), alpha=0.01) == near(0.18736047219664553)


def test_msprt() -> None:
    def ratio(n: int, d: float) -> float:
        return exp(msprt_log_ratio(n, d, 0.5, effect_variance=0.01))

    assert ratio(100, 0.1) == near(1.1245247729)
    assert ratio(1000, 0.1) == near(2985.57699, printed=5e-6)


def test_one_look_tests() -> None:
    assert two_proportion_z(120, 1000, 150, 1000) == (near(1.963049807622355), near(0.04964038686536878))
    assert wilson_interval(60, 100) == (near(0.5020025867910618), near(0.6905987135675411))
    assert sign_test(60, 40) == near(0.05688793364098089)
    assert mcnemar_exact(10, 25) == near(0.016673847800120715)
    assert holm([0.01, 0.04, 0.03, 0.005]) == [near(p) for p in (0.03, 0.06, 0.06, 0.02)]


@pytest.mark.parametrize(
    ("rate", "other", "users"), [(0.5, 0.55, 1564.672), (0.5, 0.6, 387.339), (0.1, 0.12, 3840.847)]
)
def test_users_needed(rate: float, other: float, users: float) -> None:
    assert users_needed_per_arm(rate, other) == near(users, printed=5e-4)


@pytest.mark.parametrize(("win_rate", "pairs"), [(0.55, 782.526), (0.6, 193.847), (0.65, 84.813)])
def test_pairs_needed(win_rate: float, pairs: float) -> None:
    assert pairs_needed(win_rate) == near(pairs, printed=5e-4)


@pytest.mark.parametrize(
    ("table", "kappa"),
    [([[20, 5], [10, 15]], 0.4), ([[45, 15], [25, 15]], 0.13043478), ([[25, 35], [5, 35]], 0.25925926)],
)
def test_cohen_kappa(table: list[list[float]], kappa: float) -> None:
    assert cohen_kappa(table) == near(kappa, printed=5e-9)


def test_fleiss_kappa_of_the_textbook_table() -> None:
    table = [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ]
    assert fleiss_kappa(table) == near(0.20993070442195522)


@pytest.mark.parametrize(
    ("level", "alpha"), [("nominal", 0.7434211), ("ordinal", 0.8153875), ("interval", 0.8491071), ("ratio", 0.7974027)]
)
def test_krippendorff_alpha_of_the_2011_paper(level: Level, alpha: float) -> None:
    rows: list[list[float | None]] = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    assert krippendorff_alpha(rows, level=level) == near(alpha, printed=1e-7)


def test_bradley_terry_of_the_baseball_season() -> None:
    wins = [
        [0, 7, 9, 7, 7, 9, 11],
        [6, 0, 7, 5, 11, 9, 9],
        [4, 6, 0, 7, 7, 8, 12],
        [6, 8, 6, 0, 6, 7, 10],
        [6, 2, 6, 7, 0, 7, 12],
        [4, 4, 5, 6, 6, 0, 6],
        [2, 4, 1, 3, 1, 7, 0],
    ]
    strengths = log_strengths(wins)
    expected = [1.5814, 1.4364, 1.2945, 1.2476, 1.1077, 0.6839, 0]
    assert list(strengths - strengths[-1]) == [near(value, printed=5e-5) for value in expected]
    # The table prints four digits; the maximum itself is where every team's expected wins are its wins.
    for mine, row in enumerate(wins):
        met = [row[other] + wins[other][mine] for other in range(7)]
        expected_wins = sum(m / (1 + exp(strengths[o] - strengths[mine])) for o, m in enumerate(met) if o != mine)
        assert expected_wins == pytest.approx(sum(row), abs=1e-6)


def test_dpo_loss() -> None:
    def loss(policy_chosen: float, policy_rejected: float) -> float:
        return dpo_loss(
            0.1,
            policy_chosen=policy_chosen,
            policy_rejected=policy_rejected,
            reference_chosen=-11,
            reference_rejected=-11,
        )

    assert loss(-10, -12) == near(0.5981388693815918)
    assert loss(-10, -10) == near(0.6931471805599453)
    assert loss(-10, -10) == near(log(2))
