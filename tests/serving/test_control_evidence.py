from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine as Database
from sqlmodel import Session, col, select

from flywheel.audit import AuditEntry
from flywheel.database import reading, writing
from flywheel.experiments import Experiment, evidence_digest
from flywheel.feedback import PICK
from flywheel.pairs import judge
from flywheel.prompt_versions import SHIPPED_WORDING
from serving import evidence
from serving.evidence import look_at_running, shadowed, user_counts, user_picks
from serving.preferences import Preferences
from serving.verdict import MOST, UserCounts
from tests.made_records import made_adapter, made_experiment, made_interaction, made_pair, made_prompt, made_rating


def answered(session: Session, trial: Experiment, user: str, arm: str | None = "champion", **values: Any) -> Any:
    return made_interaction(session, user=user, experiment_id=trial.id, arm=arm, **values)


def rated_users(session: Session, trial: Experiment, arm: str, *, count: int, liked: float, first: int = 0) -> None:
    for number in range(first, first + count):
        row = answered(session, trial, f"{arm}-{number}", arm)
        made_rating(session, row, number - first < liked * count)


def state_and_evidence(database: Database, trial: Experiment) -> tuple[str, dict[str, Any]]:
    with reading(database) as session:
        found = session.get_one(Experiment, trial.id)
        assert found.evidence is not None
        assert found.evidence_hash == evidence_digest(found.evidence)
        return found.state, found.evidence


def test_users_are_counted_by_their_newest_ratings_and_finished_answers(database: Database) -> None:
    with writing(database) as session:
        trial = made_experiment(session)
        first, second = answered(session, trial, "ann"), answered(session, trial, "ann", finish_reason="length")
        made_rating(session, first, False)
        made_rating(session, first, True)  # changed her mind
        made_rating(session, second, 2)
        made_rating(session, second, 5, source="reviewer", actor="rita")  # not a user's
        answered(session, trial, "bob", "challenger", status="failed", answer=None)
        answered(session, trial, "bob", "challenger", answer=" \n")
        answered(session, trial, "cleo", status="asked", answer=None)
        answered(session, trial, "dora", status="cancelled")
        made_interaction(session, user="emil")  # outside the experiment
        found = sorted(user_counts(session, trial), key=lambda user: user.unit)
    assert [user for user in found if user.finished or user.failed] == [
        UserCounts("ann", "champion", 2, 0, flawed=1, rating=(1 + 0.25) / 2, refused=0, regenerated=0, unrated=0),
        UserCounts("bob", "challenger", 1, 1, flawed=1, rating=None, refused=0, regenerated=0, unrated=1),
    ]


def test_what_guardrails_read_is_counted_over_finished_answers(database: Database) -> None:
    with writing(database) as session:
        trial = made_experiment(session)
        made = [
            answered(session, trial, "ann", answer=text, answer_words=words, answer_seconds=seconds)
            for text, words, seconds in (
                ("I do not know, I\u2019m afraid.", 6, 2.0),
                ("\n I can\u2019t say.", 1000, 100.0),
                ("I know: 5 %.", 3, 4.0),
                ("Sorry_not", 1, None),
            )
        ]
        answered(session, trial, "ann", status="failed", answer="I do not know", answer_seconds=9.0)
        made_rating(session, made[0], True)
        made_rating(session, made[0], True, actor="somebody else")
        signal = made_rating(session, made[1], True, source="implicit")
        signal.name, signal.score = "regenerate", None
        session.flush()
        [ann] = [user for user in user_counts(session, trial) if user.unit == "ann"]
    assert (ann.finished, ann.failed) == (4, 1)
    assert (ann.refused, ann.regenerated, ann.unrated) == (0.75, 0.25, 0.75)
    assert ann.seconds == pytest.approx((2 + MOST["seconds"] + 4) / 3)
    assert ann.words == pytest.approx((6 + MOST["words"] + 3 + 1) / 4)
    assert ann.first_token_seconds is None


def test_a_look_without_a_running_experiment_does_nothing(database: Database) -> None:
    assert look_at_running(database, alias="flywheel") is False


def test_a_look_that_saw_nothing_new_is_not_stored(database: Database) -> None:
    with writing(database) as session:
        trial = made_experiment(session)
        rated_users(session, trial, "champion", count=5, liked=0.5)
        rated_users(session, trial, "challenger", count=5, liked=0.5)
    look_at_running(database, alias="flywheel")
    _, first = state_and_evidence(database, trial)
    look_at_running(database, alias="flywheel")
    assert state_and_evidence(database, trial) == ("running", first)
    with writing(database) as session:
        rated_users(session, trial, "champion", count=1, liked=1, first=5)
    look_at_running(database, alias="flywheel")
    _, second = state_and_evidence(database, trial)
    assert len(second["looks"]) == len(first["looks"]) + 1


def test_the_first_ship_stands_so_that_an_approval_can_be_bound_to_it(database: Database) -> None:
    with writing(database) as session:
        trial = made_experiment(session, minimum_users=20)
        rated_users(session, trial, "champion", count=40, liked=0.2)
        rated_users(session, trial, "challenger", count=40, liked=0.8)
    look_at_running(database, alias="flywheel")
    state, ship = state_and_evidence(database, trial)
    assert (state, ship["verdict"]) == ("running", "SHIP")
    with writing(database) as session:
        rated_users(session, trial, "challenger", count=20, liked=0.2, first=40)
    assert look_at_running(database, alias="flywheel") is False
    assert state_and_evidence(database, trial) == ("running", ship)


def look_overtaken(
    database: Database, monkeypatch: pytest.MonkeyPatch, before_it_ends: Callable[[], None] = lambda: None
) -> None:
    """A look that has seen nobody when another one, which began later, is done."""

    def count_slowly(_session: Session, _trial: Experiment) -> list[UserCounts]:
        monkeypatch.undo()
        look_at_running(database, alias="flywheel")
        before_it_ends()
        return []

    monkeypatch.setattr(evidence, "user_counts", count_slowly)
    look_at_running(database, alias="flywheel")


def test_a_look_that_began_before_a_ship_does_not_overwrite_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writing(database) as session:
        trial = made_experiment(session, minimum_users=20)
        rated_users(session, trial, "champion", count=40, liked=0.2)
        rated_users(session, trial, "challenger", count=40, liked=0.8)
    look_overtaken(database, monkeypatch)
    assert state_and_evidence(database, trial)[1]["verdict"] == "SHIP"


def test_a_look_that_another_overtakes_which_saw_less_looks_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writing(database) as session:
        trial = made_experiment(session, minimum_users=20)
        rated_users(session, trial, "champion", count=2, liked=0.5)

    def more_users() -> None:
        with writing(database) as session:
            rated_users(session, trial, "challenger", count=3, liked=0.5)

    look_overtaken(database, monkeypatch, before_it_ends=more_users)
    assert sum(state_and_evidence(database, trial)[1]["users"].values()) == 5


@pytest.mark.parametrize(
    ("values", "verdict"),
    [({"status": "failed", "answer": None}, "ROLLBACK"), ({}, "INVALID")],
)
def test_a_broken_guardrail_or_ratio_stops_the_experiment_even_after_a_ship(
    database: Database, values: dict[str, Any], verdict: str
) -> None:
    with writing(database) as session:
        trial = made_experiment(session, minimum_users=20)
        rated_users(session, trial, "champion", count=40, liked=0.2)
        rated_users(session, trial, "challenger", count=40, liked=0.8)
    look_at_running(database, alias="flywheel")
    with writing(database) as session:
        for number in range(300):
            answered(session, trial, f"late-{number}", "challenger", **values)
    assert look_at_running(database, alias="flywheel") is True
    state, seen = state_and_evidence(database, trial)
    assert (state, seen["verdict"]) == ("stopped", verdict)
    with reading(database) as session:
        entry = session.exec(select(AuditEntry).order_by(col(AuditEntry.position).desc()).limit(1)).one()
        assert (entry.actor, entry.act, entry.subject) == ("system", "stop_experiment", trial.id)
        assert entry.details["verdict"] == verdict
    assert look_at_running(database, alias="flywheel") is False


def test_a_ramp_climbs_when_enough_new_users_of_both_arms_show_no_harm(database: Database) -> None:
    with writing(database) as session:
        trial = made_experiment(session, ramp=[0.01, 0.05])
        rated_users(session, trial, "champion", count=30, liked=0.5)
        rated_users(session, trial, "challenger", count=29, liked=0.5)
    assert look_at_running(database, alias="flywheel") is False
    with writing(database) as session:
        rated_users(session, trial, "challenger", count=1, liked=1, first=29)
    assert look_at_running(database, alias="flywheel") is True
    assert look_at_running(database, alias="flywheel") is False  # the next share wants users of its own
    with writing(database) as session:
        for arm in ("champion", "challenger"):
            rated_users(session, trial, arm, count=30, liked=0.5, first=30)
    assert look_at_running(database, alias="flywheel") is True
    assert look_at_running(database, alias="flywheel") is False
    with reading(database) as session:
        assert session.get_one(Experiment, trial.id).share == trial.traffic_share


def test_a_ramp_does_not_climb_over_a_broken_guardrail(database: Database) -> None:
    with writing(database) as session:
        trial = made_experiment(session, ramp=[0.05])
        rated_users(session, trial, "champion", count=100, liked=0.9)
        rated_users(session, trial, "challenger", count=100, liked=0.1)
    assert look_at_running(database, alias="flywheel") is True
    with reading(database) as session:
        found = session.get_one(Experiment, trial.id)
        assert (found.state, found.step) == ("stopped", 0)


def picked(session: Session, trial: Experiment, user: str, *, first: str, choice: int) -> None:
    row = answered(session, trial, user, first)
    made_rating(session, row, True, name=PICK).choice = choice


def test_the_first_pick_of_each_user_counts_for_the_adapter_that_was_picked(database: Database) -> None:
    with writing(database) as session:
        trial = made_experiment(session, mode="interleaved")
        picked(session, trial, "ann", first="challenger", choice=0)
        picked(session, trial, "ben", first="champion", choice=1)
        picked(session, trial, "cal", first="champion", choice=0)
        picked(session, trial, "cal", first="challenger", choice=0)
        answered(session, trial, "dan", "challenger")  # picked nothing
        picks, shown_first = user_picks(session, trial)
    assert picks == Preferences(wins=2, losses=1)
    assert shown_first == {"champion": 2, "challenger": 3}
    look_at_running(database, alias="flywheel")
    _, seen = state_and_evidence(database, trial)
    assert (seen["verdict"], seen["users"]["challenger"]) == ("HOLD", 2)


def test_shadows_are_compared_with_the_answers_to_the_same_questions_and_by_reviewers(database: Database) -> None:
    with writing(database) as session:
        trial = made_experiment(session, mode="shadow")
        for number in range(40):
            row = answered(session, trial, f"user-{number}", arm=None)
            pair = made_pair(session, row, "I do not know.", adapter="lora-1")
            if number < 3:
                challenger_is = "b" if pair.a_candidate is None else "a"
                judge(session, pair, reviewer="rita", verdict=challenger_is if number else "ab".strip(challenger_is))
        users, judged = shadowed(session, trial)
    assert judged == Preferences(wins=2, losses=1)
    assert {(user.arm, user.refused) for user in users} == {("champion", 0.0), ("challenger", 1.0)}
    assert look_at_running(database, alias="flywheel") is True  # a challenger that only refuses is not shadowed on
    state, seen = state_and_evidence(database, trial)
    assert (state, seen["verdict"]) == ("stopped", "ROLLBACK")
    assert "refusals" in seen["sentence"]


def test_of_one_adapter_the_prompt_tells_a_shadow_from_another_candidate(database: Database) -> None:
    with writing(database) as session:
        made_adapter(session, "identity-1")
        shorter = made_prompt(session)
        trial = made_experiment(session, mode="shadow", challenger="identity-1", challenger_prompt=shorter)
        row = answered(session, trial, "ann", arm=None)
        shadow = made_pair(session, row, "In one line.", adapter="identity-1", prompt_version=shorter)
        refilled = made_pair(session, row, "Another.", adapter="identity-1", prompt_version=SHIPPED_WORDING.version)
        for pair, text in ((shadow, "In one line."), (refilled, "Open the settings.")):
            judge(session, pair, reviewer="rita", verdict="a" if pair.a == text else "b")
        users, judged = shadowed(session, trial)
    assert [(user.arm, user.finished) for user in users] == [("champion", 1), ("challenger", 1)]
    assert judged == Preferences(wins=1, losses=0)


def test_evidence_names_what_it_compares_and_why_no_gate_is_asked(database: Database) -> None:
    with writing(database) as session:
        made_adapter(session, "identity-1")
        shorter = made_prompt(session)
        trial = made_experiment(session, challenger="identity-1", challenger_prompt=shorter)
    look_at_running(database, alias="flywheel")
    _, seen = state_and_evidence(database, trial)
    assert seen["variants"] == {
        "champion": {"adapter": "identity-1", "prompt": SHIPPED_WORDING.version},
        "challenger": {"adapter": "identity-1", "prompt": shorter},
    }
    assert "gate is not asked" in seen["gate_note"]
