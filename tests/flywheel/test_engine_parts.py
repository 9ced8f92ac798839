"""Engines started and stopped as a merge wants them; the processes are real, only vLLM is not."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine as Database

from flywheel import engine_parts
from flywheel.database import reading, writing
from flywheel.engine_parts import MOST_DEATHS, EngineParts
from flywheel.merges import ASKED, FAILED, SERVING, WRITTEN, allow_merge, merged_folder, move_merge, newest_merge
from flywheel.parts import ENGINE, MERGED_ENGINE
from flywheel.processes import Part, Supervisor
from flywheel.promotions import Approval, promote
from flywheel.settings import Settings, load_settings
from tests.made_records import ALIAS, TENANT, made_adapter, made_experiment

SLEEPS = [sys.executable, "-c", "import time; time.sleep(60)"]
DIES = [sys.executable, "-c", "raise SystemExit('there is no room for me')"]


class Up:
    """What `flywheel up` holds, with an adapter live that may be merged and whose weights are written."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.database = database
        with writing(database) as session:
            identity = made_adapter(session, "identity-1")
            trial = made_experiment(
                session, champion=identity.name, challenger=made_adapter(session, "lora-1").name, verdict="SHIP"
            )
            promote(session, trial, live=identity, approval=Approval("olga", "better", trial.evidence_hash or ""))
            self.merge_id = allow_merge(session, settings, tenant=TENANT, actor="olga", reason="faster").id
        merged_folder(settings, "lora-1").mkdir(parents=True)
        self.engines = EngineParts(settings, database)
        self.supervisor = Supervisor(self.engines.now(), logs=settings.home / "logs")

    def follow(self) -> list[str]:
        return self.engines.follow(self.supervisor)

    def running(self) -> set[str]:
        return set(self.supervisor.running)

    def move(self, before: str, state: str) -> None:
        with writing(self.database) as session:
            assert move_merge(session, self.merge_id, expected=before, state=state)

    def state(self) -> tuple[str, str]:
        with reading(self.database) as session:
            row = newest_merge(session, alias=ALIAS)
        assert row is not None
        return row.state, row.trouble or ""

    def until_dead(self, name: str) -> None:
        give_up = time.monotonic() + 20
        while self.supervisor.running[name].alive:
            assert time.monotonic() < give_up
            time.sleep(0.02)


@pytest.fixture
def merged_command(request: pytest.FixtureRequest) -> list[str]:
    return getattr(request, "param", SLEEPS)


@pytest.fixture
def up(tmp_path: Path, database: Database, merged_command: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Up]:
    monkeypatch.setattr(engine_parts, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(engine_parts, "engine_parts", lambda _: [Part(ENGINE, SLEEPS, None)])
    monkeypatch.setattr(
        engine_parts, "merged_engine_parts", lambda _settings, _adapter: [Part(MERGED_ENGINE, merged_command, None)]
    )
    settings = load_settings(home=tmp_path)
    no_wait = settings.engine.model_copy(update={"stand_by_seconds": 0})
    found = Up(settings.model_copy(update={"engine": no_wait}), database)
    with found.supervisor:
        found.supervisor.start()
        yield found


def test_an_engine_is_started_beside_the_first_which_stops_when_that_one_answers(up: Up) -> None:
    assert up.follow() == []
    up.move(ASKED, WRITTEN)
    assert up.follow() == ["merged-engine is started"]
    assert up.running() == {ENGINE, MERGED_ENGINE}
    up.move(WRITTEN, SERVING)
    assert up.follow() == ["engine is stopped: it is not needed now"]
    assert up.running() == {MERGED_ENGINE}
    assert [part.name for part in up.engines.now()] == [MERGED_ENGINE]  # what the next `flywheel up` begins with
    with writing(up.database) as session:
        made_experiment(session, champion="lora-1", challenger=made_adapter(session, "lora-2").name)
    assert up.follow() == ["engine is started"]
    assert up.running() == {ENGINE, MERGED_ENGINE}
    up.move(SERVING, WRITTEN)
    assert up.follow() == ["merged-engine is stopped: it is not needed now"]


def test_where_memory_does_not_allow_two_engines_the_adapter_goes_on(up: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_parts, "available_bytes", lambda: 1024)
    up.move(ASKED, WRITTEN)
    assert "two engines do not fit" in up.follow()[0]
    assert up.state()[0] == FAILED
    assert "GiB are free" in up.state()[1]
    assert up.running() == {ENGINE}


@pytest.mark.parametrize("merged_command", [DIES], indirect=True)
def test_weights_that_do_not_start_end_the_merge_with_the_engines_own_words(up: Up) -> None:
    up.move(ASKED, WRITTEN)
    up.follow()
    up.until_dead(MERGED_ENGINE)
    assert "there is no room for me" in up.follow()[0]
    assert up.state()[0] == FAILED
    assert "there is no room for me" in up.state()[1]
    assert up.follow() == []
    assert up.running() == {ENGINE}


@pytest.mark.parametrize(("state", "ends"), [(WRITTEN, True), (SERVING, False)])
def test_an_engine_that_is_silent_for_long_ends_the_merge_only_while_it_starts(
    up: Up, monkeypatch: pytest.MonkeyPatch, state: str, ends: bool
) -> None:
    silent = Part(MERGED_ENGINE, SLEEPS, "http://127.0.0.1:9", start_seconds=0)
    monkeypatch.setattr(engine_parts, "merged_engine_parts", lambda _settings, _adapter: [silent])
    up.move(ASKED, WRITTEN)
    up.follow()
    if state == SERVING:
        up.move(WRITTEN, SERVING)
    up.follow()
    assert (MERGED_ENGINE in up.running(), up.state()[0] == FAILED) == (not ends, ends)


def test_a_merged_engine_that_keeps_dying_gives_way_to_the_adapter(up: Up) -> None:
    up.move(ASKED, WRITTEN)
    up.follow()
    up.move(WRITTEN, SERVING)
    for _ in range(MOST_DEATHS):
        assert up.state()[0] == SERVING
        up.supervisor.running[MERGED_ENGINE].process.kill()
        up.until_dead(MERGED_ENGINE)
        up.follow()
        up.supervisor.restart_dead()
    assert up.state()[0] == FAILED
    up.follow()
    assert up.running() == {ENGINE}


def test_weights_that_are_gone_end_the_merge(up: Up, tmp_path: Path) -> None:
    up.move(ASKED, WRITTEN)
    (tmp_path / "merged" / "lora-1").rmdir()
    up.follow()
    assert up.state() == (FAILED, "the merged weights of lora-1 are gone")
