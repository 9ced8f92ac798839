"""Which engines `flywheel up` starts, and what they begin with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import Engine as Database

from benchmarks.made_lora import publish_lora
from flywheel.base_model import base_model_hash
from flywheel.boot_adapters import boot_adapters
from flywheel.database import writing
from flywheel.parts import appliance_parts
from flywheel.promotions import Approval, live_adapter, promote
from flywheel.settings import STARTER, Settings, load_settings
from tests.made_adapters import opened
from tests.made_records import made_adapter, made_experiment

ELSEWHERE = "http://gpu-box:8100"
HERE = ["http://127.0.0.1:8100", "http://localhost:8101"]


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    engine = {"urls": [HERE[0], ELSEWHERE, HERE[1]], "arguments": ["--seed", "1"]}
    return load_settings(home=tmp_path, base_model=str(STARTER), database_url=database_url, engine=engine)


def commands(settings: Settings) -> dict[str, Sequence[str]]:
    """What would be started now."""
    parts = [part for part in appliance_parts(settings) if part.name.startswith("engine")]
    return {part.name: part.command() if callable(part.command) else part.command for part in parts}


def begun_with(command: Sequence[str]) -> list[str]:
    if "--lora-modules" not in command:
        return []
    given = command[command.index("--lora-modules") + 1 : command.index("--seed")]
    return [json.loads(one)["path"] for one in given]


def live_lora(settings: Settings, database: Database) -> tuple[str, str]:
    """An adapter with its files that was promoted, and the identity adapter before it."""
    base, lora = base_model_hash(str(STARTER)), publish_lora(settings, seed=1)
    with writing(database) as session:
        identity = made_adapter(session, "identity-000000000000", base_model_hash=base).name
        made_adapter(session, lora, base_model_hash=base)
        trial = made_experiment(session, champion=identity, challenger=lora, verdict="SHIP")
        live = live_adapter(session, alias="flywheel", base_model_hash=base)
        assert live is not None
        promote(session, trial, live=live, approval=Approval("olga", "better", trial.evidence_hash or ""))
    return lora, identity


def test_an_engine_is_started_for_each_address_of_this_machine(settings: Settings) -> None:
    parts = appliance_parts(settings)
    assert [part.name for part in parts] == ["engine", "engine-2", "api", "worker", "dashboard"]
    assert [part.address for part in parts[:2]] == HERE
    ports = [command[command.index("--port") + 1] for command in commands(settings).values()]
    assert ports == ["8100", "8101"]
    off = settings.model_copy(update={"engine": settings.engine.model_copy(update={"start": False})})
    assert commands(off) == {}


def test_an_engine_begins_with_what_is_live_when_it_is_started(settings: Settings, database: Database) -> None:
    part = appliance_parts(settings)[0]
    assert callable(part.command)
    assert begun_with(part.command()) == []
    lora, _ = live_lora(settings, database)
    command = part.command()
    assert begun_with(command) == [str(settings.adapters_folder / lora)]
    assert command[-2:] == ["--seed", "1"]  # the operator's own come last


def test_an_adapter_that_does_not_verify_is_left_out_and_said(
    settings: Settings, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    lora, identity = live_lora(settings, database)
    folder = settings.adapters_folder / lora
    opened(folder, "adapter_model.safetensors").write_bytes(b"cut")
    assert boot_adapters(settings) == []
    assert f"{lora} is not the file that was published" in caplog.text
    assert f"{identity} has no folder" in caplog.text


def test_before_there_are_records_an_engine_begins_with_nothing(tmp_path: Path) -> None:
    fresh = load_settings(home=tmp_path, base_model=str(STARTER))
    assert boot_adapters(fresh) == []
    assert list(tmp_path.iterdir()) == []
