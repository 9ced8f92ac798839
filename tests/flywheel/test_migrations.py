"""From the first schema, with records in it, to the newest: nothing is lost, and the way back is open."""

from __future__ import annotations

import pytest
from alembic import command
from sqlalchemy import Engine, text
from sqlmodel import Session, select

from flywheel.database import alembic_config, migrate, open_database
from flywheel.feedback import Feedback
from flywheel.interactions import Interaction, choices_of
from flywheel.pairs import Candidate, PreferencePair

AT = "2026-01-02 03:04:05+00:00"
FIRST = [
    "INSERT INTO interaction (id, tenant, request_id, conversation, unit, alias, messages, passages, parameters,"
    f" answer, status, asked_at) VALUES ('chatcmpl-1', 'default', 'r', 'c', 'ann', 'flywheel', '[]', '[]', '{{}}',"
    f" 'Hello.', 'finished', '{AT}')",
    "INSERT INTO feedback (id, tenant, completion_id, choice, name, value, score, source, created_at)"
    f" VALUES ('fb-1', 'default', 'chatcmpl-1', 0, 'rating', 1, 1, 'user', '{AT}')",
    "INSERT INTO candidate (id, tenant, completion_id, text, parameters, created_at)"
    f" VALUES ('cand-1', 'default', 'chatcmpl-1', 'Hi.', '{{}}', '{AT}')",
    "INSERT INTO preference_pair (id, tenant, completion_id, prompt, a, b, b_candidate, state, created_at)"
    f" VALUES ('pair-1', 'default', 'chatcmpl-1', '[]', 'Hello.', 'Hi.', 'cand-1', 'waiting', '{AT}')",
]


@pytest.fixture
def first_schema(database: Engine) -> Engine:
    """A database of the first version with one row of everything that hangs on an interaction."""
    if database.dialect.name == "sqlite":
        database = open_database(f"{database.url}-first")
    else:
        with database.begin() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
    command.upgrade(alembic_config(database), "0001")
    with database.begin() as connection:
        for statement in FIRST:
            connection.execute(text(statement.replace(":", "\\:")))
    return database


def test_upgrade_keeps_every_row(first_schema: Engine) -> None:
    migrate(first_schema)
    with Session(first_schema) as session:
        row = session.get_one(Interaction, "chatcmpl-1")
        assert (row.answer, row.content, row.client_metadata, row.idempotency_key) == ("Hello.", "kept", {}, None)
        assert [choice.message["content"] for choice in choices_of(row)] == ["Hello."]
        assert session.exec(select(Feedback.id, Feedback.key)).all() == [("fb-1", None)]
        assert session.exec(select(Candidate.id, Candidate.choice)).all() == [("cand-1", None)]
        assert session.exec(select(PreferencePair.id)).all() == ["pair-1"]
    first_schema.dispose()


def test_way_back_keeps_every_row_of_the_first_schema(first_schema: Engine) -> None:
    migrate(first_schema)
    command.downgrade(alembic_config(first_schema), "0001")
    with first_schema.connect() as connection:
        for table in ("interaction", "feedback", "candidate", "preference_pair"):
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() == 1
    migrate(first_schema)
    first_schema.dispose()
