from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Engine
from sqlmodel import Session

from flywheel.adapters import Adapter
from flywheel.database import now, reading, writing
from flywheel.promotions import Approval, promote, promotions, roll_back
from flywheel.variants import Variant
from flywheel.who_served import who_served
from tests.made_records import made_adapter, made_experiment


def history(session: Session) -> dict[str, datetime]:
    """identity-1 from the beginning, lora-1 from the promotion on, identity-1 again after the rollback."""
    moments = {"before": now()}
    identity = made_adapter(session, "identity-1")
    moments["identity"] = now()
    trial = made_experiment(session, verdict="SHIP")
    moments["trial"] = now()
    row = promote(session, trial, live=identity, approval=Approval("olga", "better", trial.evidence_hash or ""))
    session.refresh(trial)
    moments["promoted"] = row.created_at
    tuned = session.get_one(Adapter, "lora-1")
    back = roll_back(
        session,
        tenant="default",
        alias="flywheel",
        target=Variant(identity.name),
        live=tuned,
        actor="olga",
        reason="tone",
    )
    moments["back"] = back.created_at
    return moments


def test_the_ledger_says_who_served_at_every_moment(database: Engine) -> None:
    with writing(database) as session:
        moments = history(session)
    with reading(database) as session:
        served = {name: who_served(session, alias="flywheel", at=at) for name, at in moments.items()}
        assert {name: found["adapter"] for name, found in served.items()} == {
            "before": None,
            "identity": "identity-1",
            "trial": "identity-1",
            "promoted": "lora-1",
            "back": "identity-1",
        }
        assert {name for name, found in served.items() if found["experiments"]} == {"trial"}
        assert served["trial"]["experiments"][0]["challenger"] == "lora-1"
        assert [row.kind for row in promotions(session, alias="flywheel", at=moments["promoted"])] == ["promote"]
        assert who_served(session, alias="flywheel", at=now() + timedelta(days=1))["adapter"] == "identity-1"
