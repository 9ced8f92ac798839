"""Verdicts on picks between two answers, and on shadows: figures in, evidence out."""

from __future__ import annotations

from bisect import bisect
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from flywheel.database import now
from flywheel.experiments import CHALLENGER, CHAMPION
from serving.preferences import Preferences, look_at_picks, look_at_shadow
from serving.verdict import UserCounts
from tests.made_records import unstored_experiment

TRIAL = unstored_experiment(mode="interleaved", minimum_users=50)
FAIRLY = {CHAMPION: 100, CHALLENGER: 100}


def picks(wins: int, losses: int, **values: Any) -> dict[str, Any]:
    trial = unstored_experiment(mode="interleaved", minimum_users=50, **values)
    return look_at_picks(trial, Preferences(wins, losses), shown_first=FAIRLY)


@pytest.mark.parametrize(("wins", "e_value"), [(60, 0.9130497785), (65, 11.46139395), (70, 427.3066469)])
def test_evidence_is_the_references(wins: int, e_value: float) -> None:
    assert picks(wins, 100 - wins)["e_value"] == pytest.approx(e_value, rel=1e-9)


def test_a_challenger_that_users_pick_ships() -> None:
    found = picks(70, 30)
    assert (found["verdict"], found["sentence"][:40]) == ("SHIP", "70 of 100 users picked the challenger's ")
    low, high = found["confidence"]
    assert low < found["difference"] < high
    assert found["difference"] == pytest.approx(0.4)
    assert found["users"] == {CHAMPION: 30, CHALLENGER: 70, "excluded_both_arms": 0}
    assert len(found["looks"]) == 1


def test_a_challenger_that_users_do_not_pick_never_ships() -> None:
    found = picks(30, 70)  # as much evidence, of the other kind
    assert found["e_value"] > 100
    assert (found["verdict"], found["shown"]) == ("HOLD", False)


def test_a_difference_that_could_show_is_told_and_is_where_a_verdict_turns() -> None:
    smallest = picks(50, 50)["smallest_visible_effect"]
    wins = round(100 * (smallest + 1) / 2)
    assert [picks(wins - 1, 101 - wins)["verdict"], picks(wins, 100 - wins)["verdict"]] == ["HOLD", "SHIP"]
    assert picks(2, 1)["smallest_visible_effect"] is None  # not even all three could show it


def test_few_picks_and_early_picks_hold() -> None:
    assert "12 more" in picks(38, 0)["sentence"]
    late = picks(70, 30, minimum_hours=2, created_at=now() - timedelta(hours=1))
    assert late["verdict"] == "HOLD"
    assert "1.0 more" in late["sentence"]


def test_an_order_that_is_no_fair_coin_makes_the_picks_invalid() -> None:
    found = look_at_picks(TRIAL, Preferences(70, 30), shown_first={CHAMPION: 10, CHALLENGER: 190})
    assert (found["verdict"], found["sample_ratio"]["ok"]) == ("INVALID", False)


def test_an_equal_challenger_is_hardly_ever_shipped_however_often_one_looks() -> None:
    """2,000 experiments, looked at after every fifth user up to 400: at most one in a hundred says SHIP."""
    looks = range(10, 401, 5)

    def turns(users: int) -> int:
        """The fewest picks that show the challenger."""
        return bisect(range(users + 1), False, key=lambda won: bool(picks(won, users - won)["shown"]))

    wins = np.random.default_rng(7).integers(0, 2, size=(2000, 400)).cumsum(axis=1)[:, [users - 1 for users in looks]]
    shipped = (wins >= np.array([turns(users) for users in looks])).any(axis=1).mean()
    assert 0 < shipped <= 0.01


def words(unit: int, arm: str, *, flawed: int = 0, length: float = 10.0) -> UserCounts:
    return UserCounts(f"user-{unit}", arm, 1, 0, flawed, None, refused=0.0, words=length)


def test_shadows_hold_and_tell_what_reviewers_prefer() -> None:
    users = [words(unit, arm) for unit in range(40) for arm in (CHAMPION, CHALLENGER)]
    trial = unstored_experiment(mode="shadow")
    found = look_at_shadow(trial, users, Preferences(6, 4))
    assert (found["verdict"], found["sentence"]) == (
        "HOLD",
        "40 answers of the challenger were kept and shown to no user; reviewers preferred 6 of 10 to the champion's.",
    )
    assert found["exposed"] == {CHAMPION: 40, CHALLENGER: 0}
    assert {rail["name"] for rail in found["guardrails"]} == {"empty_or_cut", "refusals", "words"}
    assert "none is judged yet" in look_at_shadow(trial, users, Preferences(0, 0))["sentence"]


def test_shadows_that_come_empty_stop_it() -> None:
    users = [words(unit, CHAMPION) for unit in range(60)] + [words(unit, CHALLENGER, flawed=1) for unit in range(60)]
    found = look_at_shadow(unstored_experiment(mode="shadow"), users, Preferences(0, 0))
    assert found["verdict"] == "ROLLBACK"
    assert "no user has met the challenger" in found["sentence"]
