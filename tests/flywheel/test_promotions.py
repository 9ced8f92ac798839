from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, col, select

from flywheel.adapters import Adapter, identity_adapter, latest_adapters
from flywheel.audit import AuditEntry
from flywheel.database import reading, writing
from flywheel.errors import ConflictError, EvidenceError, UserError
from flywheel.experiments import Experiment, record_evidence, stop_experiment
from flywheel.promotions import (
    Approval,
    Promotion,
    live_adapter,
    live_promotion,
    promote,
    promotions,
    reject,
    roll_back,
)
from flywheel.variants import Variant
from tests.made_records import made_adapter, made_experiment


def yes_to(trial: Experiment, **values: object) -> Approval:
    given = {"actor": "olga", "reason": "better", "evidence_hash": trial.evidence_hash or ""}
    return Approval(**(given | values))  # type: ignore[arg-type]


def live(session: Session) -> Adapter:
    found = live_adapter(session, alias="flywheel", base_model_hash="base")
    assert found is not None
    return found


def promoted(session: Session, challenger: str) -> Promotion:
    made_adapter(session, challenger)
    champion = live(session).name if session.exec(select(Adapter).where(Adapter.name == "identity-1")).first() else None
    trial = made_experiment(session, verdict="SHIP", challenger=challenger, champion=champion or "identity-1")
    return promote(session, trial, live=live(session), approval=yes_to(trial))


def back_to(session: Session, name: str, reason: str = "complaints") -> Promotion:
    return roll_back(
        session,
        tenant="default",
        alias="flywheel",
        target=Variant(name),
        live=live(session),
        actor="olga",
        reason=reason,
    )


def test_the_identity_adapter_is_live_until_something_is_promoted(database: Engine) -> None:
    with writing(database) as session:
        made_adapter(session, "identity-1")
        assert live(session).name == "identity-1"
        row = promoted(session, "lora-1")
        assert live(session).name == "lora-1"
    with reading(database) as session:
        newest = live_promotion(session, alias="flywheel")
        assert newest is not None
        assert (newest.id, newest.previous, newest.position) == (row.id, "identity-1", 1)
        assert session.get_one(Experiment, row.experiment_id).state == "promoted"


def test_after_an_exchange_of_the_base_model_its_identity_adapter_is_live(database: Engine) -> None:
    with writing(database) as session:
        made_adapter(session, "identity-1")
        promoted(session, "lora-1")
        made_adapter(session, "identity-2", base_model_hash="other")
        found = live_adapter(session, alias="flywheel", base_model_hash="other")
        assert found is not None
        assert found.name == "identity-2"
        assert identity_adapter(session, base_model_hash="third") is None


def test_everything_that_is_missing_is_listed_at_once(database: Engine) -> None:
    with writing(database) as session:
        made_adapter(session, "identity-1")
        made_adapter(session, "lora-1", gate={"passed": False})
        trial = made_experiment(session, verdict="HOLD")
        with pytest.raises(EvidenceError) as raised:
            promote(
                session,
                trial,
                live=live(session),
                approval=yes_to(trial, actor=" ", evidence_hash="0" * 64),
                not_ready=["no engine is ready"],
            )
    words = " | ".join(raised.value.missing)
    assert len(raised.value.missing) == 5
    for part in ("gate is not green", "HOLD, not SHIP", "operator's name", "look at it again", "no engine is ready"):
        assert part in words


def test_an_approval_of_older_evidence_is_refused(database: Engine) -> None:
    with writing(database) as session:
        trial = made_experiment(session, verdict="SHIP")
        approval = yes_to(trial)
        record_evidence(session, trial, {"verdict": "SHIP", "users": {"champion": 200}})
        session.refresh(trial)
        with pytest.raises(EvidenceError, match="look at it again"):
            promote(session, trial, live=live(session), approval=approval)
        promote(session, trial, live=live(session), approval=yes_to(trial))


def test_an_override_promotes_without_a_verdict_when_it_has_a_reason(database: Engine) -> None:
    with writing(database) as session:
        trial = made_experiment(session, verdict="HOLD")
        with pytest.raises(EvidenceError, match="an override needs a reason"):
            promote(session, trial, live=live(session), approval=yes_to(trial, override=True, reason=" "))
        row = promote(session, trial, live=live(session), approval=yes_to(trial, override=True))
        assert row.evidence is not None
        assert row.evidence["override"] is True


def test_an_experiment_against_an_adapter_that_is_live_no_longer_promotes_nothing(database: Engine) -> None:
    with writing(database) as session:
        made_adapter(session, "identity-1")
        promoted(session, "lora-1")
        trial = made_experiment(
            session, verdict="SHIP", champion="identity-1", challenger=made_adapter(session, "l-2").name
        )
        with pytest.raises(EvidenceError, match="lora-1 is live now"):
            promote(session, trial, live=live(session), approval=yes_to(trial))


def test_an_experiment_that_was_stopped_promotes_nothing(database: Engine) -> None:
    with writing(database) as session:
        trial = made_experiment(session, verdict="SHIP")
        stop_experiment(session, trial, state="stopped")
        session.refresh(trial)
        with pytest.raises(EvidenceError, match="no longer running"):
            promote(session, trial, live=live(session), approval=yes_to(trial))


def test_rejecting_ends_the_experiment_and_changes_nothing_else(database: Engine) -> None:
    with writing(database) as session:
        trial = made_experiment(session, verdict="HOLD")
        reject(session, trial, live=live(session), actor="olga", reason="too terse")
        assert live(session).name == "identity-1"
        with pytest.raises(ConflictError, match="already ended"):
            reject(session, trial, live=live(session), actor="olga", reason="again")


def test_rolling_back_and_forward_moves_only_the_alias(database: Engine) -> None:
    with writing(database) as session:
        made_adapter(session, "identity-1")
        promoted(session, "lora-1")
        promoted(session, "lora-2")
        assert back_to(session, "lora-1").previous == "lora-2"
        assert live(session).name == "lora-1"
        assert back_to(session, "lora-2").previous == "lora-1"
        assert [row.kind for row in promotions(session, alias="flywheel")] == ["roll_back"] * 2 + ["promote"] * 2
        assert [row.position for row in promotions(session, alias="flywheel")] == [4, 3, 2, 1]
        assert {row.name for row in latest_adapters(session)} == {"identity-1", "lora-1", "lora-2"}


@pytest.mark.parametrize(
    ("name", "reason", "error", "words"),
    [
        ("lora-1", "complaints", ConflictError, "live already"),
        ("lora-9", "complaints", UserError, "never live"),
        ("identity-1", " ", UserError, "name and a reason"),
    ],
)
def test_a_rollback_that_makes_no_sense_is_refused(
    database: Engine, name: str, reason: str, error: type[Exception], words: str
) -> None:
    with writing(database) as session:
        made_adapter(session, "identity-1")
        made_adapter(session, "lora-9")
        promoted(session, "lora-1")
        with pytest.raises(error, match=words):
            back_to(session, name, reason)


def test_a_rollback_goes_back_further_than_one_page_of_the_ledger(database: Engine) -> None:
    with writing(database) as session:
        made_adapter(session, "identity-1")
        promoted(session, "lora-1")
        promoted(session, "lora-2")
        for turn in range(60):
            back_to(session, "lora-1" if turn % 2 == 0 else "lora-2")
        assert back_to(session, "identity-1").position == 63


def test_a_rollback_stops_the_running_experiment(database: Engine) -> None:
    with writing(database) as session:
        made_adapter(session, "identity-1")
        promoted(session, "lora-1")
        trial = made_experiment(session, champion="lora-1", challenger=made_adapter(session, "lora-2").name)
        back_to(session, "identity-1")
        session.refresh(trial)
        assert trial.state == "stopped"
        acts = session.exec(select(AuditEntry.act).order_by(col(AuditEntry.position).desc()).limit(2)).all()
        assert list(acts) == ["roll_back", "stop_experiment"]


def test_after_an_exchange_of_the_base_model_decisions_go_on_and_the_old_ones_adapters_stay_behind(
    database: Engine,
) -> None:
    with writing(database) as session:
        made_adapter(session, "identity-1")
        promoted(session, "lora-1")
        for name in ("identity-2", "lora-2"):
            made_adapter(session, name, base_model_hash="other")
        serves = live_adapter(session, alias="flywheel", base_model_hash="other")
        assert serves is not None
        trial = made_experiment(session, verdict="SHIP", challenger="lora-2", champion=serves.name)
        promote(session, trial, live=serves, approval=yes_to(trial))
        now_live = live_adapter(session, alias="flywheel", base_model_hash="other")
        assert now_live is not None
        back: dict[str, Any] = {
            "tenant": "default",
            "alias": "flywheel",
            "live": now_live,
            "actor": "olga",
            "reason": "worse",
        }
        with pytest.raises(UserError, match="another base model"):
            roll_back(session, target=Variant("lora-1"), **back)
        assert roll_back(session, target=Variant("identity-2"), **back).previous == "lora-2"


@pytest.mark.parametrize("table", ["promotion", "audit_entry"])
@pytest.mark.parametrize("change", ["UPDATE {} SET actor = 'mallory'", "DELETE FROM {}"])
def test_the_database_refuses_to_rewrite_ledger_and_audit(database: Engine, table: str, change: str) -> None:
    with writing(database) as session:
        made_adapter(session, "identity-1")
        promoted(session, "lora-1")
    with pytest.raises(DBAPIError, match="append-only"), writing(database) as session:
        session.execute(text(change.format(table)))


def test_a_refused_promotion_leaves_no_trace(database: Engine) -> None:
    with writing(database) as session:
        trial = made_experiment(session, verdict="HOLD")
    with pytest.raises(EvidenceError), writing(database) as session:
        promote(session, session.get_one(Experiment, trial.id), live=live(session), approval=yes_to(trial))
    with reading(database) as session:
        assert promotions(session, alias="flywheel") == []
        assert session.get_one(Experiment, trial.id).state == "running"


def test_of_two_operators_who_decide_at_once_one_is_told_to_look_again(database: Engine) -> None:
    with writing(database) as session:
        made_adapter(session, "identity-1")
        promoted(session, "lora-1")
        promoted(session, "lora-2")
    both_have_read, outcomes = threading.Barrier(2, timeout=30), []

    def decide(name: str) -> None:
        try:
            with writing(database) as session:
                if database.dialect.name == "postgresql":  # SQLite's writers take turns from their first line on
                    live(session)
                    both_have_read.wait()
                back_to(session, name)
            outcomes.append("done")
        except (ConflictError, UserError) as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=decide, args=(name,)) for name in ("lora-1", "lora-1")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["ConflictError", "done"]
    with reading(database) as session:
        assert [row.position for row in promotions(session, alias="flywheel")] == [3, 2, 1]
