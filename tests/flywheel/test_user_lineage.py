from __future__ import annotations

import pytest
from sqlalchemy import Engine
from sqlmodel import select

from flywheel.database import reading, writing
from flywheel.dataset_versions import DatasetRow
from flywheel.errors import NotFoundError
from flywheel.feedback import CORRECTION
from flywheel.pairs import add_corrected
from flywheel.promotions import Approval, promote
from flywheel.user_lineage import SHOWN, user_lineage
from tests.made_records import (
    decided_pair,
    ended_run,
    made_adapter,
    made_dataset,
    made_experiment,
    made_interaction,
    made_rating,
)


def test_from_a_user_one_call_reaches_everything_made_from_their_words(database: Engine) -> None:
    with writing(database) as session:
        asked = made_interaction(session, user="bob")
        made_rating(session, asked, False)
        pair = decided_pair(session, asked)
        dataset = made_dataset(session, [pair, decided_pair(session, made_interaction(session, user="ann"))])
        made_dataset(session, [], name="ds-000000000002")
        identity = made_adapter(session, "identity-1")
        run = ended_run(session, adapter="lora-1", dataset=dataset.name)
        made_adapter(session, "lora-1", run_id=run.id)
        trial = made_experiment(session, verdict="SHIP")
        row = promote(session, trial, live=identity, approval=Approval("olga", "better", trial.evidence_hash or ""))
    with reading(database) as session:
        found = user_lineage(session, "bob", tenant="default")
    assert found["counts"] == dict.fromkeys(SHOWN, 1)
    ids = {step: found[step][0].get("id") or found[step][0].get("name") for step in SHOWN if step != "feedback"}
    assert ids == {
        "interactions": asked.id,
        "pairs": pair.id,
        "datasets": dataset.name,
        "runs": run.id,
        "adapters": "lora-1",
        "experiments": trial.id,
        "promotions": row.id,
    }
    assert found["feedback"][0]["completion_id"] == asked.id
    assert found["datasets"][0]["their_rows"] == {"train": 1}


def test_what_a_user_corrected_in_somebody_elses_chat_is_theirs_too(database: Engine) -> None:
    with writing(database) as session:
        answer = made_interaction(session, user="ann")
        made_rating(session, answer, None, name=CORRECTION, text="Ask the desk.", actor="bob")  # type: ignore[arg-type]
        add_corrected(session, answer, choice=0, text="Ask the desk.")
        found = user_lineage(session, "bob", tenant="default")
    assert {step: count for step, count in found["counts"].items() if count} == {"feedback": 1, "pairs": 1}


def test_of_long_lists_the_newest_are_shown_and_all_are_counted(database: Engine) -> None:
    with writing(database) as session:
        rows = [made_interaction(session, user="bob") for _ in range(4)]
        found = user_lineage(session, "bob", tenant="default", limit=2)
    assert found["counts"]["interactions"] == 4
    assert [row["id"] for row in found["interactions"]] == [rows[3].id, rows[2].id]


def test_a_stranger_or_another_tenants_user_is_not_found(database: Engine) -> None:
    with writing(database) as session:
        made_rating(session, made_interaction(session, user="bob", tenant="acme"), True)
        for user in ("bob", "nobody"):
            with pytest.raises(NotFoundError, match="has asked or rated"):
                user_lineage(session, user, tenant="default")


def test_a_pair_that_only_validates_is_told_apart(database: Engine) -> None:
    with writing(database) as session:
        dataset = made_dataset(session, [decided_pair(session, made_interaction(session, user="bob"))])
        row = session.exec(select(DatasetRow).where(DatasetRow.dataset == dataset.name)).one()
        row.split = "validation"
        session.flush()
        assert user_lineage(session, "bob", tenant="default")["datasets"][0]["their_rows"] == {"validation": 1}
