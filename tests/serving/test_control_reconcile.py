"""Reconcile against a real engine: what it makes ready, what it refuses, what it takes away again."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.made_lora import publish_lora
from flywheel.adapters import adapter
from flywheel.base_model import base_model_hash
from flywheel.database import migrate, open_database, reading, writing
from flywheel.settings import load_settings
from serving import reconcile
from serving.engine import Engine
from tests.made_adapters import trained_adapter
from tests.made_control import NOWHERE, Control
from tests.made_records import made_adapter

pytestmark = pytest.mark.engine


@pytest.fixture
def control(engine_url: str, base_model: str, tmp_path: Path) -> Iterator[Control]:
    settings = load_settings(home=tmp_path, base_model=base_model, engine={"urls": [engine_url]})
    database = open_database(settings.resolved_database_url)
    migrate(database)
    yield Control(settings, database)
    database.dispose()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Every load and unload that an engine is asked for."""
    asked: list[tuple[str, str]] = []
    load, unload = Engine.load, Engine.unload

    async def note_load(self: Engine, name: str, folder: Path) -> None:
        asked.append(("load", name))
        await load(self, name, folder)

    async def note_unload(self: Engine, name: str) -> None:
        asked.append(("unload", name))
        await unload(self, name)

    monkeypatch.setattr(Engine, "load", note_load)
    monkeypatch.setattr(Engine, "unload", note_unload)
    return asked


@pytest.fixture
def drains(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets as much time pass as an adapter has to drain."""
    passed = 0.0

    def pass_time() -> None:
        nonlocal passed
        passed += reconcile.DRAIN_SECONDS

    monkeypatch.setattr(reconcile, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + passed))
    return pass_time


def test_the_first_tick_makes_an_identity_adapter_and_remembers_what_it_answers(control: Control) -> None:
    control.tick()
    assert control.ready() == {control.identity}
    assert control.live.target("flywheel", unit="ann").adapter == control.identity
    assert (control.settings.adapters_folder / control.identity / "manifest.json").is_file()
    with reading(control.database) as session:
        assert len(adapter(session, control.identity).manifest["probes"]) == 3


def test_a_tick_with_nothing_to_do_asks_the_engine_for_nothing(control: Control, calls: list[Any]) -> None:
    control.tick()
    calls.clear()
    control.tick()
    assert calls == []
    assert control.ready() == {control.identity}


def test_lost_files_of_the_identity_adapter_are_made_again(control: Control) -> None:
    control.tick()
    folder = control.settings.adapters_folder / control.identity
    folder.rename(folder.with_name("away"))
    control.tick()
    assert folder.is_dir()


def test_an_engine_that_forgot_its_adapters_is_not_ready_until_they_are_back(control: Control) -> None:
    control.tick()
    name = control.identity
    control.in_a_loop(lambda: control.pool.engines[0].unload(name))  # as a restart does
    seen: list[set[str]] = []
    load = Engine.load

    async def look_while_loading(self: Engine, name: str, folder: Path) -> None:
        seen.append(control.ready())
        await load(self, name, folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "load", look_while_loading)
        control.tick()
    assert seen == [set()]
    assert control.ready() == {name}


def test_a_challenger_that_answers_its_probes_becomes_ready_and_leaves_when_its_trial_is_over(
    control: Control, calls: list[Any], drains: Callable[[], None]
) -> None:
    control.tick()
    challenger = trained_adapter(control.settings, control.database, seed=1)
    trial = control.challenge(challenger)
    control.tick()
    assert control.ready() == control.loaded() == {control.identity, challenger}
    control.end(trial)
    calls.clear()
    control.tick()  # it drains, lest another serving's request is on its way
    with control.live.speaking(challenger):
        assert control.ready() == {control.identity}
        assert challenger in control.loaded()  # somebody still hears it
        drains()
        control.tick()
    assert calls == []
    control.tick()
    assert calls == [("unload", challenger)]
    assert control.loaded() == {control.identity}


def test_an_adapter_that_does_not_answer_as_it_did_when_it_was_made_is_taken_back(control: Control) -> None:
    control.tick()
    other = trained_adapter(control.settings, control.database, seed=2)
    with reading(control.database) as session:
        wrong = adapter(session, other).manifest["probes"]
    with writing(control.database) as session:
        name = publish_lora(control.settings, seed=3)
        manifest = {"probes": wrong}
        made_adapter(
            session, name, base_model_hash=base_model_hash(control.settings.base_model_path), manifest=manifest
        )
    control.challenge(name)
    control.tick()
    assert control.ready() == control.loaded() == {control.identity}
    assert "nats per token" in control.trouble(name)


def test_a_trained_adapter_without_probes_is_refused(control: Control) -> None:
    control.tick()
    name = trained_adapter(control.settings, control.database, seed=1, manifest={})
    control.challenge(name)
    control.tick()
    assert control.ready() == {control.identity}
    assert "no probes" in control.trouble(name)


def test_broken_files_are_refused_before_the_engine_is_asked_and_the_others_stay_ready(
    control: Control, calls: list[Any]
) -> None:
    control.tick()
    name = trained_adapter(control.settings, control.database, seed=1)
    control.challenge(name)
    calls.clear()
    weights = control.settings.adapters_folder / name / "adapter_model.safetensors"
    weights.chmod(0o644)
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    control.tick(2)
    assert calls == []
    assert control.ready() == {control.identity}
    assert "not the file that was published" in control.trouble(name)
    weights.write_bytes(whole)
    control.tick()
    assert control.ready() == {control.identity}  # it rests a while before the next try
    control.live.watches[control.pool.engines[0].url].rest_until.clear()
    control.tick()
    assert control.ready() == {control.identity, name}
    assert control.trouble(name) == ""


def test_an_engine_never_holds_more_adapters_than_it_has_places_for(
    engine_url: str, base_model: str, tmp_path: Path, drains: Callable[[], None]
) -> None:
    places = {"urls": [engine_url], "max_loras": 2, "max_cpu_loras": 2}
    settings = load_settings(home=tmp_path, base_model=base_model, engine=places)
    database = open_database(settings.resolved_database_url)
    migrate(database)
    control = Control(settings, database)
    control.tick()
    first, second = (trained_adapter(settings, database, seed=seed) for seed in (1, 2))
    trial = control.challenge(first)
    control.tick()
    control.end(trial)
    control.challenge(second)
    control.tick()
    with control.live.speaking(first):
        drains()
        control.tick()
        assert control.loaded() == {control.identity, first}
        assert "free place" in control.trouble(second)
    control.tick()
    assert control.loaded() == control.ready() == {control.identity, second}
    database.dispose()


def test_an_engine_that_refuses_connections_is_out_of_service_at_once_and_the_other_one_answers(
    engine_url: str, base_model: str, tmp_path: Path
) -> None:
    settings = load_settings(home=tmp_path, base_model=base_model, engine={"urls": [engine_url, NOWHERE]})
    database = open_database(settings.resolved_database_url)
    migrate(database)
    control = Control(settings, database)
    control.pool.mark(control.pool.engines[1], {"identity-000000000000"})
    control.tick()
    assert control.ready(1) == set()
    assert control.trouble("", 1) == "does not answer"
    assert control.ready(0) == {control.identity}
    assert control.pool.engine_for(control.identity).url == engine_url
    database.dispose()


def test_a_bad_tick_is_said_in_one_line_and_the_loop_goes_on(
    control: Control, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ticks: list[int] = []

    async def fails_once(_appliance: Any) -> None:
        ticks.append(1)
        if len(ticks) == 1:
            raise RuntimeError("something new")

    monkeypatch.setattr(reconcile, "reconcile_once", fails_once)
    settings = load_settings(home=control.settings.home, serving={"reconcile_seconds": 0.01})
    fake: Any = SimpleNamespace(settings=settings, database=control.database, live=control.live)

    async def run() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reconcile.reconcile_forever(fake), 0.5)

    asyncio.run(run())
    assert len(ticks) > 2
    assert "RuntimeError: something new" in caplog.text


def test_the_manifest_of_the_identity_adapter_is_the_one_on_disk(control: Control) -> None:
    control.tick()
    with reading(control.database) as session:
        record = adapter(session, control.identity).manifest
    on_disk = json.loads((control.settings.adapters_folder / control.identity / "manifest.json").read_text())
    assert {key: value for key, value in record.items() if key != "probes"} == on_disk
