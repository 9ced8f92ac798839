"""Several servings on one database: one changes the engines, the others observe and take over."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine as Database
from sqlalchemy.exc import OperationalError

from benchmarks.made_lora import publish_lora
from flywheel.base_model import base_model_hash
from flywheel.database import open_database, reading, writing
from flywheel.interactions import OPEN, Interaction
from flywheel.settings import STARTER, load_settings
from serving import leadership
from serving.engine import Engine
from serving.leadership import LEASE_SECONDS, LIFE_SECONDS
from serving.reconcile import DRAIN_SECONDS, WATCH_SECONDS, reconcile_forever, watch_engines
from tests.conftest import free_port, wait_until
from tests.made_control import Control
from tests.made_records import made_adapter, made_interaction
from tests.serving.scripted_replicas import LOG_PROBS, URLS, Clock, Replica


class Servings:
    """Two of them before the same two replicas."""

    def __init__(self, home: Path, database: Database, clock: Clock) -> None:
        self.settings = load_settings(home=home, base_model=str(STARTER), engine={"urls": URLS}, serving={"port": 0})
        self.database, self.clock = database, clock
        self.held: list[dict[str, str]] = [{}, {}]
        self.leader, self.observer = self.serving(), self.serving()
        self.leader.tick()

    def serving(self) -> Control:
        engines = [Replica(url, held) for url, held in zip(URLS, self.held, strict=True)]
        return Control(self.settings, self.database, engines)

    def challenger(self, *, log_probs: list[float] = LOG_PROBS) -> str:
        name = publish_lora(self.settings, seed=1)
        manifest = {"probes": [{"token_ids": [1, 2, 3], "log_probs": log_probs}]}
        with writing(self.database) as session:
            made_adapter(session, name, base_model_hash=base_model_hash(str(STARTER)), manifest=manifest)
        self.experiment = self.leader.challenge(name)
        return name


@pytest.fixture
def servings(tmp_path: Path, migrated_sqlite: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Servings]:
    shutil.copy(migrated_sqlite, tmp_path / "flywheel.db")
    database = open_database(f"sqlite:///{tmp_path / 'flywheel.db'}")
    yield Servings(tmp_path, database, Clock(monkeypatch))
    database.dispose()


def test_an_observer_marks_what_the_leader_has_loaded_and_loads_nothing_itself(servings: Servings) -> None:
    identity = servings.leader.identity
    name = servings.challenger()
    servings.observer.tick()
    assert servings.observer.ready(0) == servings.observer.ready(1) == {identity}
    assert "waits for the serving that leads" in servings.observer.trouble(name)
    assert [set(held) for held in servings.held] == [{identity}, {identity}]
    servings.leader.tick()
    servings.observer.tick()
    assert servings.observer.ready(0) == servings.observer.ready(1) == {identity, name}
    assert servings.observer.trouble(name) == ""


def test_an_observer_answers_from_no_adapter_that_is_not_itself_and_leaves_it_to_the_leader(
    servings: Servings,
) -> None:
    name = servings.challenger(log_probs=[-9.0, -9.0])
    for held in servings.held:
        held[name] = str(servings.settings.adapters_folder / name)
    servings.observer.tick()
    assert "nats per token" in servings.observer.trouble(name)
    assert name not in servings.observer.ready()
    assert [name in held for held in servings.held] == [True, True]
    servings.leader.tick()
    assert [name in held for held in servings.held] == [False, False]


def test_an_observer_leads_once_the_lease_is_over_or_let_go(servings: Servings) -> None:
    servings.observer.tick()
    assert (servings.leader.live.leadership.held, servings.observer.live.leadership.held) == (True, False)
    servings.clock.ahead += LEASE_SECONDS
    servings.observer.tick()
    servings.leader.tick()
    assert (servings.leader.live.leadership.held, servings.observer.live.leadership.held) == (False, True)
    servings.observer.live.leadership.close()
    servings.leader.tick()
    assert servings.leader.live.leadership.held
    servings.observer.tick()
    assert not servings.observer.live.leadership.held


def test_what_a_serving_was_answering_when_it_died_is_closed_by_the_one_that_leads(servings: Servings) -> None:
    servings.observer.tick()
    holders = [one.live.leadership.holder for one in (servings.leader, servings.observer)]
    with writing(servings.database) as session:
        rows = [made_interaction(session, status=OPEN, answer=None, serving=holder).id for holder in holders]

    def states() -> list[str]:
        with reading(servings.database) as session:
            return [session.get_one(Interaction, row).status for row in rows]

    for seconds, expected in ((LEASE_SECONDS, [OPEN, OPEN]), (LIFE_SECONDS, ["interrupted", OPEN])):
        servings.clock.ahead += seconds
        servings.observer.tick()
        assert servings.observer.live.leadership.held
        assert states() == expected


def test_a_clean_stop_lets_go_of_the_lease(servings: Servings) -> None:
    async def run() -> None:
        loop = asyncio.create_task(reconcile_forever(servings.leader.appliance))
        await asyncio.sleep(0.2)
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)

    servings.leader.in_a_loop(run)
    servings.observer.tick()
    assert servings.observer.live.leadership.held


def test_what_nobody_wants_is_unloaded_only_after_every_serving_has_long_known(servings: Servings) -> None:
    name = servings.challenger()
    servings.leader.tick()
    servings.leader.end(servings.experiment)
    servings.leader.tick()
    servings.clock.ahead += DRAIN_SECONDS - 5
    servings.leader.tick()
    assert [name in held for held in servings.held] == [True, True]
    servings.clock.ahead += 5
    servings.leader.tick()
    assert [name in held for held in servings.held] == [False, False]


def test_an_adapter_from_another_folder_is_loaded_anew_from_ours(servings: Servings) -> None:
    identity = servings.leader.identity
    servings.held[0][identity] = "/elsewhere/identity"
    servings.observer.tick()
    assert servings.observer.ready(0) == set()
    assert servings.held[0][identity] == "/elsewhere/identity"
    servings.leader.tick()
    assert servings.held[0][identity] == str(servings.settings.adapters_folder / identity)
    assert servings.leader.ready(0) == {identity}


def test_a_leader_whose_lease_cannot_be_written_leads_on_until_it_is_over(
    servings: Servings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> bool:
        raise OperationalError("INSERT", None, Exception("disk is full"))

    monkeypatch.setattr(leadership, "take_lease", full)
    servings.clock.ahead += LEASE_SECONDS * 0.6
    servings.leader.tick()
    led = servings.leader.live.leadership.held
    assert led
    assert "cannot be renewed: disk is full" in caplog.text
    servings.clock.ahead += LEASE_SECONDS * 0.6
    servings.leader.tick()
    led = servings.leader.live.leadership.held
    assert not led
    assert servings.leader.ready() == {servings.leader.identity}  # it answers as before


def test_an_engine_whose_port_refuses_is_taken_out_between_ticks_and_a_silent_one_is_not(servings: Servings) -> None:
    async def watch(control: Control) -> None:
        watching = asyncio.create_task(watch_engines(control.appliance))
        await asyncio.to_thread(wait_until, lambda: not control.ready(0))
        await asyncio.sleep(3 * WATCH_SECONDS)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        urls = [f"http://localhost:{free_port()}", f"http://127.0.0.1:{silent.getsockname()[1]}"]
        control = Control(servings.settings, servings.database, [Engine(url) for url in urls])
        for engine in control.pool.engines:
            control.pool.mark(engine, {"lora-1"})
        control.in_a_loop(lambda: watch(control))
    assert (control.ready(0), control.trouble("", 0)) == (set(), "does not answer")
    assert (control.ready(1), control.trouble("", 1)) == ({"lora-1"}, "")


def test_an_engine_that_is_back_is_looked_at_before_the_next_tick(servings: Servings) -> None:
    port = free_port()
    control = Control(servings.settings, servings.database, [Engine(f"http://127.0.0.1:{port}")])

    async def watch() -> None:
        watching = asyncio.create_task(watch_engines(control.appliance))
        await asyncio.sleep(2 * WATCH_SECONDS)
        assert not control.live.engine_is_back.is_set()
        with socket.create_server(("127.0.0.1", port)):
            await asyncio.wait_for(control.live.engine_is_back.wait(), 10)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    control.in_a_loop(watch)
