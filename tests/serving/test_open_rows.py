"""Whose open rows are closed as interrupted, and when: nobody's who is still answering."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from sqlalchemy import Engine as Database
from sqlmodel import col, select

from flywheel.database import reading, writing
from flywheel.interactions import OPEN, Interaction
from flywheel.leases import SERVING, Lease, take_lease
from flywheel.settings import Settings, load_settings
from serving.leadership import Leadership
from serving.records import close_after_the_dead, open_records
from tests.made_records import made_interaction

ELSEWHERE = f"{SERVING}elsewhere:8080"


def states(database: Database) -> Mapping[str | None, str]:
    with reading(database) as session:
        return {row.serving: row.status for row in session.exec(select(Interaction))}


def leave_open(database: Database, *servings: str | None) -> None:
    with writing(database) as session:
        for serving in servings:
            made_interaction(session, status=OPEN, answer=None, finish_reason=None, serving=serving)


def live(database: Database, holder: str, *, name: str = ELSEWHERE, seconds: float = 60) -> None:
    with writing(database) as session:
        assert take_lease(session, name=name, holder=holder, seconds=seconds)


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return load_settings(home=tmp_path, database_url=database_url, serving={"port": 8080, "require_keys": False})


def test_a_start_closes_what_its_predecessor_and_the_dead_left_and_nothing_that_is_being_answered(
    settings: Settings, database: Database
) -> None:
    predecessor = Leadership(database, settings)
    assert predecessor._renew()  # it leads, and lives
    live(database, "other")
    leave_open(database, predecessor.holder, "other", "long dead", None)
    open_records(settings).dispose()
    shared = database.dialect.name != "sqlite"  # a SQLite file has one serving
    assert states(database) == {
        predecessor.holder: "interrupted",
        "other": OPEN if shared else "interrupted",
        "long dead": "interrupted",
        None: "interrupted",
    }


def test_rows_of_a_serving_that_died_are_closed_once_its_lease_is_over(database: Database) -> None:
    live(database, "dies", seconds=60)
    live(database, "lives", name=f"{SERVING}here:8080")
    leave_open(database, "dies", "lives")
    close_after_the_dead(database)
    assert set(states(database).values()) == {OPEN}
    live(database, "dies", seconds=-1)
    close_after_the_dead(database)
    assert states(database) == {"dies": "interrupted", "lives": OPEN}
    with reading(database) as session:
        assert session.exec(select(Lease.holder).where(col(Lease.name).startswith(SERVING))).all() == ["lives"]


def test_a_clean_stop_takes_the_sign_of_life_away(settings: Settings, database: Database) -> None:
    leadership = Leadership(database, settings)
    leadership._renew()
    leadership.close()
    with reading(database) as session:
        assert session.exec(select(Lease)).all() == []
