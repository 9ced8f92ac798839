from __future__ import annotations

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from flywheel.database import reading, writing
from flywheel.errors import NotFoundError
from flywheel.interactions import Passage, close_interrupted, interaction, latest_interactions
from tests.made_records import made_interaction


def test_interaction_is_read_back_as_it_was_written(database: Engine) -> None:
    passage = Passage(number=1, chunk_id="c", document="Accounts", section="Password", text="…", score=0.8, cited=True)
    with writing(database) as session:
        written = made_interaction(session, passages=[passage], parameters={"temperature": 0.2, "stop": ["\n"]})
        kept = written.model_dump()
    with reading(database) as session:
        found = interaction(session, written.id, tenant="default")
    assert found.model_dump() == kept
    assert found.passages == [passage]
    assert found.asked_at.tzinfo is not None


def test_interaction_of_another_tenant_is_not_found(database: Engine) -> None:
    with writing(database) as session:
        row = made_interaction(session, tenant="acme")
    with reading(database) as session, pytest.raises(NotFoundError, match=row.id):
        interaction(session, row.id, tenant="default")


def test_pages_run_from_the_newest_to_the_oldest_without_gap_or_repeat(database: Engine) -> None:
    with writing(database) as session:
        written = [made_interaction(session).id for _ in range(7)]
        made_interaction(session, tenant="acme")
    seen: list[str] = []
    with reading(database) as session:
        while page := latest_interactions(session, tenant="default", limit=3, before=seen[-1] if seen else None):
            seen += [row.id for row in page]
    assert seen == written[::-1]


def test_only_open_rows_are_closed_as_interrupted_and_keep_their_text(database: Engine) -> None:
    with writing(database) as session:
        left_open = made_interaction(session, status="asked", answer="Half an ans").id
        done = made_interaction(session).id
    with writing(database) as session:
        assert close_interrupted(session) == 1
    with reading(database) as session:
        closed = interaction(session, left_open, tenant="default")
        assert (closed.status, closed.answer) == ("interrupted", "Half an ans")
        assert closed.finished_at is not None
        assert interaction(session, done, tenant="default").status == "finished"


def test_a_status_that_does_not_exist_is_refused_by_the_database(database: Engine) -> None:
    with pytest.raises(IntegrityError), writing(database) as session:
        made_interaction(session, status="done")
