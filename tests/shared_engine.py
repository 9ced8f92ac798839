"""One vLLM for all workers of a test session: two of them would share two cores and start no sooner.

The worker that needs it first starts it and, when its own tests are over, stops it once nobody else uses it. Who does
is written in a file beside it; a worker that died does not count.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flywheel.parts import engine_command, engine_environment
from flywheel.processes import Part, Running
from flywheel.settings import STARTER, load_settings

START_SECONDS = 280


@contextmanager
def shared_engine(folder: Path, *, port: int) -> Iterator[str]:
    """Where it answers; on `port` if it is this worker that starts it. `folder` is the same for all workers."""
    running: Running | None = None
    with _state(folder) as state:
        state["users"] = [pid for pid in state.get("users", []) if _alive(pid)]
        if not state["users"]:
            running = _started(f"http://127.0.0.1:{port}", folder)
            state["url"] = f"http://127.0.0.1:{port}"
        state["users"].append(os.getpid())
        url = str(state["url"])
    try:
        yield url
    finally:
        _leave(folder, running)


def _started(url: str, folder: Path) -> Running:
    settings = load_settings(base_model=str(STARTER), engine={"urls": [url]})
    command, environment = engine_command(settings, cpu=True), engine_environment(settings, cpu=True)
    running = Running(Part("engine", command, url, "/health", environment=environment), logs=folder)
    deadline = time.monotonic() + START_SECONDS
    while not running.healthy:
        if not running.alive or time.monotonic() > deadline:
            running.stop()
            raise AssertionError(running.last_words(40))
        time.sleep(0.5)
    return running


def _leave(folder: Path, running: Running | None) -> None:
    """Whoever started it waits for the others."""
    me, first = os.getpid(), True
    while True:
        with _state(folder) as state:
            if first:
                state["users"].remove(me)
                first = False
            if running is None:
                return
            if not any(_alive(pid) for pid in state["users"]):
                state["users"] = []
                running.stop()
                return
        time.sleep(0.5)


@contextmanager
def _state(folder: Path) -> Iterator[dict[str, Any]]:
    """What the workers know of it, while nobody else reads or writes that."""
    with (folder / "engine.json").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        state: dict[str, Any] = json.loads(file.read() or "{}")
        yield state
        file.seek(0)
        file.truncate()
        file.write(json.dumps(state))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
