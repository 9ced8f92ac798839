"""A database in trouble ends neither the worker nor the run that it has taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError

import retrain.worker
from flywheel.database import reading, writing
from flywheel.errors import DatabaseTroubleError
from flywheel.runs import queue_run, training_run
from flywheel.settings import Settings
from retrain.worker import Worker

FULL = OperationalError("UPDATE", {}, Exception("database or disk is full"))


@pytest.fixture
def worker(settings_for: Callable[..., Settings], records: Engine, tmp_path: Path) -> Worker:
    return Worker(settings_for(tmp_path), records)


@pytest.fixture
def queued(records: Engine) -> str:
    with writing(records) as session:
        return queue_run(session, tenant="default", alias="flywheel", recipe={}, requested_by="Ada").id


def test_run_waits_for_the_end_of_its_lease(
    worker: Worker, records: Engine, queued: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise FULL

    monkeypatch.setattr(retrain.worker, "update_run", refuse)
    with pytest.raises(DatabaseTroubleError):
        worker.work_once()
    with reading(records) as session:
        run = training_run(session, queued, tenant="default")
    assert (run.state, run.error) == ("running", None)


def test_worker_goes_on(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def look(*wanted: object, **how: object) -> None:
        looks.append(wanted)
        if len(looks) < 3:
            raise FULL
        worker.stopping.set()

    monkeypatch.setattr(retrain.worker, "claim_run", look)
    worker.work_forever()
    assert len(looks) == 3
