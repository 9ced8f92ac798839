"""Two people for one promotion: whose approval counts, for which evidence, and what is said to those who come first."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, col, select

from flywheel.approvals import approvals_view, same_person
from flywheel.audit import AuditEntry
from flywheel.database import reading, writing
from flywheel.errors import EvidenceError
from flywheel.experiments import Experiment, record_evidence
from flywheel.promotions import Approval, Promotion, approve, live_adapter, promote, promotions
from flywheel.settings import PromotionSettings
from tests.made_records import made_experiment

TWO = PromotionSettings(approvers=2)
NOT_THE_TRAINER = PromotionSettings(trainer_may_approve=False)


def yes(session: Session, trial: Experiment, actor: str, *, rules: PromotionSettings = TWO) -> Promotion | None:
    """This actor approves what stands now."""
    session.refresh(trial)
    approval = Approval(actor, f"{actor} likes it", trial.evidence_hash or "")
    return approve(session, trial, approval=approval, rules=rules, **live(session))


def live(session: Session) -> dict[str, Any]:
    return {"live": live_adapter(session, alias="flywheel", base_model_hash="base")}


def missing_after(session: Session, trial: Experiment) -> list[str]:
    return list(approvals_view(session, trial, TWO)["missing"])


def test_the_second_person_promotes_and_both_stand_in_the_ledger(database: Engine) -> None:
    with writing(database) as session:
        trial = made_experiment(session, verdict="SHIP")
        assert yes(session, trial, "olga") is None
        assert missing_after(session, trial) == [
            "2 people approve a promotion here, and 1 did: somebody else than olga is needed"
        ]
    with writing(database) as session:
        row = yes(session, session.get_one(Experiment, trial.id), "mira")
        assert row is not None
        assert (row.adapter, row.actor) == ("lora-1", "mira")
        assert [given["actor"] for given in (row.evidence or {})["approvals"]] == ["olga", "mira"]
        acts = session.exec(select(AuditEntry.act, AuditEntry.actor).order_by(col(AuditEntry.position).desc()).limit(2))
        assert list(acts) == [("promote", "mira"), ("approve", "olga")]


@pytest.mark.parametrize("again", ["olga", "Olga ", "olga (desk)", "mira (olga)"])
def test_one_person_never_approves_twice(database: Engine, again: str) -> None:
    with writing(database) as session:
        trial = made_experiment(session, verdict="SHIP")
        yes(session, trial, "olga")
        assert yes(session, trial, again) is None
        assert len(approvals_view(session, trial, TWO)["given"]) == 1


def test_names_under_one_shared_key_are_one_person() -> None:
    assert same_person("olga (desk)", "mira (desk)")
    assert not same_person("olga (desk)", "mira (counter)")


def test_an_approval_of_older_evidence_does_not_count(database: Engine) -> None:
    with writing(database) as session:
        trial = made_experiment(session, verdict="SHIP")
        yes(session, trial, "olga")
        record_evidence(session, trial, {"verdict": "SHIP", "users": 200})
        assert yes(session, trial, "mira") is None
        assert "somebody else than mira" in missing_after(session, trial)[0]
        assert yes(session, trial, "olga") is not None


def test_a_first_approval_needs_everything_but_the_second(database: Engine) -> None:
    with writing(database) as session:
        trial = made_experiment(session, verdict="HOLD")
    with pytest.raises(EvidenceError, match="HOLD, not SHIP"), writing(database) as session:
        yes(session, session.get_one(Experiment, trial.id), "olga")
    with reading(database) as session:
        assert approvals_view(session, session.get_one(Experiment, trial.id), TWO)["given"] == []


def test_nobody_promotes_past_the_second_person(database: Engine) -> None:
    with writing(database) as session:
        trial = made_experiment(session, verdict="SHIP")
        approval = Approval("olga", "better", trial.evidence_hash or "")
        with pytest.raises(EvidenceError, match="somebody else than olga is needed"):
            promote(session, trial, approval=approval, rules=TWO, **live(session))


@pytest.mark.parametrize(("actor", "did"), [("ann", "asked for run"), ("worker", "opened the experiment")])
def test_who_made_the_challenger_does_not_approve_it_where_that_is_ruled_out(
    database: Engine, actor: str, did: str
) -> None:
    with writing(database) as session:
        trial = made_experiment(session, verdict="SHIP")  # its run was asked for by ann, and worker opened it
        with pytest.raises(EvidenceError, match=f"{actor} {did}"):
            yes(session, trial, actor, rules=NOT_THE_TRAINER)
        assert yes(session, trial, "olga", rules=NOT_THE_TRAINER) is not None


def test_who_made_the_challenger_approves_it_by_default(database: Engine) -> None:
    with writing(database) as session:
        trial = made_experiment(session, verdict="SHIP")
        assert yes(session, trial, "ann", rules=PromotionSettings()) is not None


def test_of_two_who_approve_at_once_the_later_one_promotes(database: Engine) -> None:
    with writing(database) as session:
        trial_id = made_experiment(session, verdict="SHIP").id
    begin, done = threading.Barrier(2, timeout=30), []

    def say_yes(actor: str) -> None:
        begin.wait()
        with writing(database) as session:
            trial = session.get_one(Experiment, trial_id)
            approval = Approval(actor, "better", trial.evidence_hash or "")
            done.append(approve(session, trial, approval=approval, rules=TWO, **live(session)) is not None)

    threads = [threading.Thread(target=say_yes, args=(actor,)) for actor in ("olga", "mira")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [False, True]
    with reading(database) as session:
        assert [row.kind for row in promotions(session, alias="flywheel")] == ["promote"]


@pytest.mark.parametrize("change", ["UPDATE approval SET actor = 'mallory'", "DELETE FROM approval"])
def test_the_database_refuses_to_rewrite_an_approval(database: Engine, change: str) -> None:
    with writing(database) as session:
        yes(session, made_experiment(session, verdict="SHIP"), "olga")
    with pytest.raises(DBAPIError, match="append-only"), writing(database) as session:
        session.execute(text(change))
