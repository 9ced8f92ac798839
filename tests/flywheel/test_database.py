from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydantic import BaseModel
from sqlalchemy import Column, Engine, MetaData, String, Table, insert, select, text
from sqlalchemy.exc import IntegrityError, OperationalError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlmodel import Session, SQLModel

import flywheel.records  # noqa: F401  (fills the metadata)
from flywheel.database import (
    PATIENCE,
    JsonOf,
    UtcTime,
    in_trouble,
    migrate,
    new_id,
    now,
    open_database,
    reading,
    reason_of,
    writing,
)
from flywheel.errors import DatabaseTroubleError, UserError
from tests.made_records import made_interaction


class Part(BaseModel):
    name: str
    at: datetime


MOMENTS = Table("moment", MetaData(), Column("id", String, primary_key=True), Column("at", UtcTime))
PARTS = Table("part", MetaData(), Column("id", String, primary_key=True), Column("parts", JsonOf(list[Part])))


def round_trip(database: Engine, table: Table, column: str, value: object) -> object:
    table.metadata.create_all(database)
    with database.begin() as connection:
        connection.execute(insert(table).values({"id": "1", column: value}))
        return connection.execute(select(table.c[column])).scalar_one()


def test_a_moment_of_another_zone_comes_back_as_the_same_moment_in_utc(database: Engine) -> None:
    moment = datetime(2026, 3, 1, 23, 30, 15, 123456, tzinfo=timezone(timedelta(hours=-5)))
    found = round_trip(database, MOMENTS, "at", moment)
    assert found == moment
    assert isinstance(found, datetime)
    assert found.tzinfo == UTC


def test_a_moment_without_a_zone_is_refused(database: Engine) -> None:
    with pytest.raises(StatementError, match="without a zone"):
        round_trip(database, MOMENTS, "at", datetime(2026, 3, 1))  # noqa: DTZ001


def test_typed_json_comes_back_as_what_it_was(database: Engine) -> None:
    parts = [Part(name="ü\n\"'", at=now())]
    assert round_trip(database, PARTS, "parts", parts) == parts


def test_typed_json_that_does_not_fit_is_refused(database: Engine) -> None:
    with pytest.raises(StatementError, match="name"):
        round_trip(database, PARTS, "parts", [{"at": now()}])


def test_the_migrations_make_exactly_the_tables_of_the_records(database: Engine) -> None:
    def made_here(_thing: object, name: str | None, _kind: str, reflected: bool, _compared: object) -> bool:
        servers_own = name == "ix_interaction_conversation" and not reflected  # Alembic does not ask for `ddl_if`
        return not servers_own or database.dialect.name == "postgresql"

    with database.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "include_object": made_here})
        assert compare_metadata(context, SQLModel.metadata) == []


def test_migrating_twice_changes_nothing(database: Engine) -> None:
    with writing(database) as session:
        row = made_interaction(session)
    migrate(database)
    with database.connect() as connection:
        assert connection.execute(text("SELECT id FROM interaction")).scalar_one() == row.id


def test_processes_that_start_together_on_an_empty_database_all_find_it_migrated(database: Engine) -> None:
    url = database.url.render_as_string(hide_password=False) + "-empty"
    if database.dialect.name == "postgresql":
        url = url.removesuffix("-empty")
        with database.begin() as connection:
            connection.exec_driver_sql("DROP SCHEMA public CASCADE")
            connection.exec_driver_sql("CREATE SCHEMA public")
    code = f"from flywheel.database import migrate, open_database; migrate(open_database({url!r}))"
    started = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [process.wait(120) for process in started] == [0, 0, 0]


def test_work_that_fails_half_way_is_rolled_back_whole(database: Engine) -> None:
    with pytest.raises(RuntimeError), writing(database) as session:
        made_interaction(session)
        raise RuntimeError
    with database.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM interaction")).scalar_one() == 0


def test_identifiers_grow_in_the_order_they_were_made() -> None:
    made = [new_id("x") for _ in range(20_000)]
    assert made == sorted(set(made))


def test_sqlite_is_opened_durable_with_foreign_keys_and_overwrites_what_is_deleted(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/new/flywheel.db")
    with engine.connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete", "wal_autocheckpoint")
        }
    assert found == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "secure_delete": 1,
        "wal_autocheckpoint": 1000,
    }
    engine.dispose()


def test_other_processes_do_not_checkpoint_the_sqlite_file(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/flywheel.db", checkpoints=False)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA wal_autocheckpoint").scalar_one() == 0
    engine.dispose()


@pytest.mark.parametrize("url", ["not a url", "mysql://host/name", "postgresql://nobody@127.0.0.1:1/none"])
def test_a_database_that_cannot_be_opened_is_one_clear_line(url: str) -> None:
    with pytest.raises(UserError) as raised:
        migrate(open_database(url))
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("session_of", [reading, writing])
def test_database_that_is_away_is_said_in_one_line(
    session_of: Callable[[Engine], AbstractContextManager[Session]],
) -> None:
    away = open_database("postgresql://nobody@127.0.0.1:1/none")
    with (
        pytest.raises(DatabaseTroubleError) as raised,
        session_of(away) as session,
    ):
        session.execute(text("SELECT 1"))
    assert str(raised.value) == "The database cannot be used now. Try again in a moment."  # and names no address
    assert "refused" in reason_of(raised.value)


def test_full_database_is_said_and_who_is_at_fault_themselves_hears_that(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/flywheel.db")
    PARTS.metadata.create_all(engine)

    def add(name: str) -> None:
        with writing(engine) as session:
            session.execute(text("PRAGMA max_page_count = 1"))  # as many as there are
            session.execute(insert(PARTS).values(id=name, parts=[Part(name="x" * 100_000, at=now())]))

    with pytest.raises(DatabaseTroubleError) as raised:
        add("a")
    assert reason_of(raised.value) == "database or disk is full"
    with writing(engine) as session:
        session.execute(text("PRAGMA max_page_count = 100000"))
        session.execute(insert(PARTS).values(id="a", parts=[]))
    with pytest.raises(IntegrityError), writing(engine) as session:
        session.execute(insert(PARTS).values(id="a", parts=[]))
    with pytest.raises(OperationalError), reading(engine) as session:
        session.execute(text("SELECT * FROM no_such_table"))
    engine.dispose()


@pytest.mark.parametrize("own", [True, False])
def test_server_that_lets_nobody_in_is_not_waited_for(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PATIENCE, "connect_timeout", "600" if own else "2")  # libpq's shortest
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/none"
        begun = time.monotonic()
        with pytest.raises(DatabaseTroubleError), reading(open_database(url + "?connect_timeout=2" * own)) as session:
            session.execute(text("SELECT 1"))
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (psycopg.errors.DiskFull(), True),
        (psycopg.errors.AdminShutdown(), True),
        (psycopg.OperationalError("connection refused"), True),
        (psycopg.InterfaceError("the connection is closed"), True),
        (psycopg.errors.StatementTooComplex(), False),
        (psycopg.errors.UniqueViolation(), False),
        (PoolTimeoutError(), True),
        (ValueError("a lone surrogate"), False),
    ],
)
def test_what_blames_the_statement_is_no_trouble_of_the_database(error: Exception, trouble: bool) -> None:
    assert in_trouble(error) == trouble
