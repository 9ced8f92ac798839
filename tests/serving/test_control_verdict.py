from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest

from flywheel.database import now
from flywheel.experiments import CHALLENGER, CHAMPION
from serving.verdict import LOOKS, UserCounts, look
from tests.made_records import unstored_experiment

TRIAL = unstored_experiment(traffic_share=0.5, minimum_users=100, planned_effect=0.3)


def users(arm: str, count: int, *, liked: float = 0.5, **values: Any) -> list[UserCounts]:
    """Users with one rated answer each, of whom the share `liked` liked it."""
    given: dict[str, Any] = {"finished": 1, "failed": 0, "flawed": 0}
    return [
        UserCounts(unit=f"{arm}-{n}", arm=arm, rating=float(n < liked * count), **(given | values))
        for n in range(count)
    ]


def test_nothing_is_said_before_each_arm_has_its_minimum_of_rated_users() -> None:
    found = look(TRIAL, users(CHAMPION, 99, liked=0.1) + users(CHALLENGER, 120, liked=0.9))
    assert found["verdict"] == "HOLD"
    assert "at least 1 more" in found["sentence"]
    assert found["users"] == {CHAMPION: 99, CHALLENGER: 120, "excluded_both_arms": 0}


def test_an_experiment_without_users_holds() -> None:
    found = look(TRIAL, [])
    assert (found["verdict"], found["difference"], found["e_value"], found["looks"]) == ("HOLD", None, 1.0, [])


def test_a_clearly_better_challenger_ships() -> None:
    found = look(TRIAL, users(CHAMPION, 100, liked=0.3) + users(CHALLENGER, 100, liked=0.7))
    assert found["verdict"] == "SHIP"
    assert found["difference"] == pytest.approx(0.4)
    assert found["e_value"] >= 1 / found["alpha"]
    low, high = found["confidence"]
    assert low < 0.4 < high
    assert found["mean"] == {CHAMPION: pytest.approx(0.3), CHALLENGER: pytest.approx(0.7)}


def test_an_equal_challenger_holds_and_is_told_what_would_have_shown() -> None:
    found = look(TRIAL, users(CHAMPION, 200) + users(CHALLENGER, 200))
    assert found["verdict"] == "HOLD"
    assert f"{found['smallest_visible_effect']:.3f} would have shown" in found["sentence"]


def test_users_who_rated_nothing_are_exposed_but_not_compared() -> None:
    silent = [UserCounts(f"silent-{n}", CHAMPION, 1, 0, 0, None) for n in range(30)]
    found = look(TRIAL, users(CHAMPION, 100) + silent + users(CHALLENGER, 110))
    assert found["users"][CHAMPION] == 100
    assert found["exposed"] == {CHAMPION: 130, CHALLENGER: 110}


@pytest.mark.parametrize(
    ("values", "name"),
    [({"failed": 1}, "error_rate"), ({"flawed": 1}, "empty_or_cut"), ({"liked": 0.0}, "rating")],
)
def test_a_challenger_that_fails_cuts_or_displeases_rolls_back(values: dict[str, Any], name: str) -> None:
    found = look(TRIAL, users(CHAMPION, 60) + users(CHALLENGER, 60, **values))
    assert found["verdict"] == "ROLLBACK"
    assert [guardrail["name"] for guardrail in found["guardrails"] if not guardrail["ok"]] == [name]
    assert "stopped" in found["sentence"]


@pytest.mark.parametrize(
    ("field", "champion", "challenger", "words"),
    [
        ("refused", 0.1, 0.5, "refusals by more than 10%"),
        ("regenerated", 0.0, 0.3, "made again by more than 5%"),
        ("unrated", 0.2, 0.7, "nobody rates by more than 10%"),
        ("seconds", 2.0, 14.0, "slower answers by more than 3 s"),
        ("first_token_seconds", 0.3, 3.5, "later first tokens by more than 0.5 s"),
        ("words", 60.0, 260.0, "longer answers by more than 60 words"),
    ],
)
def test_a_challenger_that_costs_users_something_else_is_stopped(
    field: str, champion: float, challenger: float, words: str
) -> None:
    def arms(first: float, second: float) -> list[UserCounts]:
        return users(CHAMPION, 100, **{field: first}) + users(CHALLENGER, 100, **{field: second})

    found = look(TRIAL, arms(champion, challenger))
    assert found["verdict"] == "ROLLBACK"
    assert words in found["sentence"]
    [broken] = [rail for rail in found["guardrails"] if not rail["ok"]]
    assert (broken[CHAMPION], broken[CHALLENGER]) == (pytest.approx(champion), pytest.approx(challenger))
    for better in (champion, 0.9 * champion):
        assert all(rail["ok"] for rail in look(TRIAL, arms(champion, better))["guardrails"])


def test_a_champion_that_fails_does_not_break_a_guardrail() -> None:
    found = look(TRIAL, users(CHAMPION, 60, failed=3, flawed=1) + users(CHALLENGER, 60))
    assert all(guardrail["ok"] for guardrail in found["guardrails"])
    assert found["guardrails"][0][CHAMPION] == pytest.approx(0.75)


def test_a_user_who_was_only_failed_counts_for_the_error_rate_and_is_not_exposed() -> None:
    failed = [UserCounts(f"failed-{n}", CHALLENGER, 0, 1, 0, None) for n in range(60)]
    found = look(TRIAL, users(CHAMPION, 60) + users(CHALLENGER, 60) + failed)
    assert found["exposed"] == {CHAMPION: 60, CHALLENGER: 60}
    assert found["guardrails"][0][CHALLENGER] == pytest.approx(0.5)
    assert found["verdict"] == "ROLLBACK"


def test_arms_that_did_not_get_their_share_are_invalid_before_anything_else() -> None:
    found = look(TRIAL, users(CHAMPION, 600, liked=0.1) + users(CHALLENGER, 300, liked=0.9))
    assert found["verdict"] == "INVALID"
    assert found["sample_ratio"]["ok"] is False
    uneven = unstored_experiment(traffic_share=1 / 3, minimum_users=100, planned_effect=0.3)
    assert look(uneven, users(CHAMPION, 600, liked=0.1) + users(CHALLENGER, 300, liked=0.9))["verdict"] == "SHIP"


def test_users_answered_by_both_arms_are_excluded_and_too_many_are_invalid() -> None:
    clean = users(CHAMPION, 100) + users(CHALLENGER, 100)
    twice = [UserCounts(f"twice-{n}", arm, 1, 0, 0, 1.0) for n in range(6) for arm in (CHAMPION, CHALLENGER)]
    few = look(TRIAL, clean + twice[:8])
    assert few["users"] == {CHAMPION: 100, CHALLENGER: 100, "excluded_both_arms": 4}
    assert few["verdict"] == "HOLD"
    many = look(TRIAL, clean + twice)
    assert (many["verdict"], many["users"]["excluded_both_arms"]) == ("INVALID", 6)


def test_the_course_is_thinned_and_keeps_its_first_and_newest_look() -> None:
    trial = unstored_experiment(traffic_share=0.5, minimum_users=100, planned_effect=0.3)
    for count in range(2, 200):
        seen = trial.evidence = look(trial, users(CHAMPION, count) + users(CHALLENGER, count))
    looks = seen["looks"]
    assert LOOKS / 2 <= len(looks) <= LOOKS
    assert (looks[0]["users"], looks[-1]["users"]) == (4, 398)
    assert [one["users"] for one in looks] == sorted(one["users"] for one in looks)


def test_equal_arms_are_hardly_ever_rolled_back_though_looked_at_after_every_twenty_users() -> None:
    chance, stopped = random.Random(7), 0
    for _ in range(25):
        crowd: list[UserCounts] = []
        for n in range(0, 400, 20):
            for k in range(20):
                arm = CHALLENGER if chance.random() < 0.5 else CHAMPION
                failed, flawed = int(chance.random() < 0.05), int(chance.random() < 0.1)
                crowd.append(UserCounts(f"u{n + k}", arm, 1, failed, flawed, float(chance.random() < 0.5)))
            if look(TRIAL, crowd)["verdict"] in ("ROLLBACK", "INVALID"):
                stopped += 1
                break
    assert stopped <= 1


def test_nothing_ships_before_the_least_time_has_passed() -> None:
    better = users(CHAMPION, 100, liked=0.3) + users(CHALLENGER, 100, liked=0.7)
    for hours_ago, verdict in ((23, "HOLD"), (25, "SHIP")):
        begun = now() - timedelta(hours=hours_ago)
        trial = unstored_experiment(minimum_hours=24, created_at=begun, planned_effect=0.3)
        assert look(trial, better)["verdict"] == verdict
