"""Whole turns with real processes: `python -m retrain` and its training child, on the tiny base model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from sqlalchemy.engine import Engine

from flywheel.adapter_files import verify_adapter
from flywheel.base_model import base_model_hash, module_shapes
from flywheel.database import now, reading, writing
from flywheel.runs import TrainingRun, queue_run, run_events, training_run
from flywheel.settings import Settings
from retrain.worker import Worker

QUICK = {"dpo": {"learning_rate": 1e-2, "epochs": 8.0, "batch_size": 8}}
PATIENCE_SECONDS = 240.0
StartWorker = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start_worker(home: Path, base_model: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `python -m retrain` for this home; whatever still runs at the end of the test is ended."""
    started = []

    def start(**settings: str) -> subprocess.Popen[str]:
        started.append(_worker(home, base_model, settings))
        return started[-1]

    yield start
    for worker in started:
        if worker.poll() is None:
            worker.terminate()
            worker.communicate(timeout=PATIENCE_SECONDS)


def _worker(home: Path, base: Path, settings: dict[str, str]) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLYWHEEL_")} | {
        "FLYWHEEL_HOME": str(home), "FLYWHEEL_BASE_MODEL": str(base), "FLYWHEEL_RETRAIN__MINIMUM_PAIRS": "4",
        "FLYWHEEL_RETRAIN__THREADS": "1", "FLYWHEEL_RETRAIN__POLL_SECONDS": "0.1",
    } | settings  # fmt: skip
    return subprocess.Popen([sys.executable, "-m", "retrain"], env=environment, stderr=subprocess.PIPE, text=True)


def wait_for_child(worker: subprocess.Popen[str]) -> psutil.Process:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        children = psutil.Process(worker.pid).children()
        if children:
            return children[0]
        assert worker.poll() is None, "the worker ended by itself"
        time.sleep(0.1)
    raise AssertionError("the worker started no training process")


@pytest.fixture
def queued(records: Engine, twenty_pairs: list[str]) -> str:
    with writing(records) as session:
        return queue_run(session, tenant="default", alias="flywheel", recipe=QUICK, requested_by="Ada").id


def found(records: Engine, run_id: str) -> TrainingRun:
    with reading(records) as session:
        return training_run(session, run_id, tenant="default")


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")
def test_a_killed_workers_run_is_taken_up_again_and_its_child_does_not_go_on(
    start_worker: StartWorker, records: Engine, base_model: Path, queued: str, settings_for: Callable[..., Settings]
) -> None:
    killed = start_worker()
    orphan = wait_for_child(killed)
    killed.kill()
    killed.communicate()
    with writing(records) as session:
        run = session.get_one(TrainingRun, queued)
        assert (run.state, run.stage) == ("running", "train")
        run.leased_until = now() - timedelta(seconds=1)
        session.add(run)
    frozen = run.dataset

    settings = settings_for(base_model)
    assert Worker(settings, records).work_once()
    run = found(records, queued)
    assert (run.state, run.error, run.dataset) == ("succeeded", None, frozen), run.gate
    assert run.metrics["training"]["dpo"]["done"] == run.metrics["training"]["dpo"]["total"]
    assert run.gate is not None
    assert "Facts were not checked" in run.gate["sentence"]
    with reading(records) as session:
        assert any("Taken up again" in event.text for event in run_events(session, queued))
    verify_adapter(
        settings.adapters_folder / (run.adapter or ""), base_model_hash=base_model_hash(str(base_model)), max_rank=16,
        shapes=module_shapes(str(base_model)),
    )  # fmt: skip
    psutil.wait_procs([orphan], timeout=PATIENCE_SECONDS)
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE


@pytest.mark.timeout(600)
def test_sigterm_ends_worker_and_child_and_leaves_the_run_to_the_next(
    start_worker: StartWorker, records: Engine, queued: str
) -> None:
    worker = start_worker()
    child = wait_for_child(worker)
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=PATIENCE_SECONDS)
    assert worker.returncode == 0
    assert not child.is_running()
    run = found(records, queued)
    assert run.state == "running"
    assert run.leased_until is not None
    assert run.leased_until <= now()


def test_a_wrong_setting_is_one_clear_line(start_worker: StartWorker) -> None:
    worker = start_worker(FLYWHEEL_RETRAIN__RECIPE="no-such-recipe")
    _, said = worker.communicate(timeout=PATIENCE_SECONDS)
    assert worker.returncode == 1
    names = "dpo-sft, sft-then-dpo, starter"
    assert said == f"retrain: No recipe 'no-such-recipe': give one of {names}, or the path of a TOML file.\n"
