"""From the first schema, with records in it, to the newest: nothing is lost, and the way back is open."""

from __future__ import annotations

import pytest
from alembic import command
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from flywheel.database import alembic_config, migrate, open_database, writing
from flywheel.experiments import Experiment
from flywheel.feedback import Feedback
from flywheel.interactions import Interaction, choices_of
from flywheel.pairs import Candidate, PreferencePair
from flywheel.promotions import Promotion
from flywheel.variants import Variant
from tests.made_records import made_prompt

AT = "2026-01-02 03:04:05+00:00"
MADE = "SELECT sql FROM sqlite_schema WHERE name = 'interaction'"
SHIP = '{"verdict": "SHIP"}'
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
    "INSERT INTO adapter (name, content_hash, base_model_hash, manifest, created_at)"
    f" VALUES ('identity-1', 'i', 'base', '{{}}', '{AT}'), ('lora-1', 'l', 'base', '{{}}', '{AT}')",
    "INSERT INTO experiment (id, tenant, alias, champion, challenger, salt, traffic_share, minimum_users,"
    " planned_effect, state, evidence, created_at) VALUES"
    f" ('exp-1', 'default', 'flywheel', 'identity-1', 'lora-1', 's', .5, 100, .05, 'promoted', '{SHIP}', '{AT}'),"
    f" ('exp-2', 'default', 'flywheel', 'lora-1', 'identity-1', 's', .5, 100, .05, 'running', NULL, '{AT}')",
    "INSERT INTO promotion (id, tenant, alias, position, kind, adapter, previous, experiment_id, actor, reason,"
    " created_at) VALUES"
    f" ('promo-1', 'default', 'flywheel', 1, 'promote', 'lora-1', 'identity-1', 'exp-1', 'olga', 'better', '{AT}')",
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


@pytest.mark.parametrize(("column", "refused"), [("status", "lost"), ("status", ""), ("content", "gone")])
def test_upgrade_keeps_what_an_interaction_may_be(first_schema: Engine, column: str, refused: str) -> None:
    migrate(first_schema)
    allowed = {"status": ("asked", "cancelled", "failed", "interrupted"), "content": ("withheld", "deleted", "kept")}
    with first_schema.begin() as connection:
        for word in allowed[column]:
            connection.execute(text(f"UPDATE interaction SET {column} = :word"), {"word": word})
        if first_schema.dialect.name == "sqlite":
            assert connection.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"
            assert " IN (" not in connection.execute(text(MADE)).scalar_one()
    with pytest.raises(IntegrityError), first_schema.begin() as connection:
        connection.execute(text(f"UPDATE interaction SET {column} = :word"), {"word": refused})
    first_schema.dispose()


def test_upgrade_to_prompt_versions_keeps_experiments_and_what_guards_them(first_schema: Engine) -> None:
    migrate(first_schema)
    with writing(first_schema) as session:
        ended, running = session.exec(select(Experiment).order_by(col(Experiment.id))).all()
        assert (ended.state, ended.mode, ended.champion_variant) == ("promoted", "split", Variant("identity-1"))
        assert ended.evidence == {"verdict": "SHIP"}
        row = session.exec(select(Promotion)).one()
        assert (row.experiment_id, row.prompt, row.previous_prompt) == ("exp-1", None, None)
        shorter = made_prompt(session)
    own = {"id": "exp-3", "champion": "lora-1", "challenger": "lora-1", "challenger_prompt": shorter}
    for wrong in (
        {"state": "running", "challenger_prompt": shorter},  # a second one for this alias
        {"challenger_prompt": None},
        {"challenger_prompt": "0" * 12},
        {"challenger": "lora-9"},
        {"mode": "secret"},
    ):
        with pytest.raises(IntegrityError), writing(first_schema) as session:
            session.add(Experiment(**(running.model_dump() | {"state": "stopped"} | own | wrong)))
    with writing(first_schema) as session:
        session.add(Experiment(**(running.model_dump() | {"state": "stopped"} | own)))
    with pytest.raises(IntegrityError), writing(first_schema) as session:
        session.execute(text("DELETE FROM experiment WHERE id = 'exp-1'"))
    first_schema.dispose()


def test_way_back_keeps_every_row_of_the_first_schema(first_schema: Engine) -> None:
    migrate(first_schema)
    command.downgrade(alembic_config(first_schema), "0001")
    with first_schema.connect() as connection:
        for table in ("interaction", "feedback", "candidate", "preference_pair", "promotion"):
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() == 1
        assert connection.execute(text("SELECT count(*) FROM experiment")).scalar_one() == 2
    migrate(first_schema)
    first_schema.dispose()
