"""Running the training child and reading its progress, so that the worker itself never loads a training library.

The child speaks JSON lines on its standard output (`retrain/train.py`). While it works `on_tick` is called about once
a second, with its newest line; whatever `on_tick` raises (cancelled, lease lost, stopping) ends the child before it is
passed on. A child never outlives the block that started it.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from flywheel.errors import UserError
from retrain.run_folder import LOG

TICK_SECONDS = 1.0
GRACE_SECONDS = 10.0


class TrainingFailedError(UserError):
    """The child process ended without a result."""

    status = 500


def run_child(folder: Path, *, threads: int, on_tick: Callable[[dict[str, Any]], None]) -> None:
    """Train in `folder`. Raises TrainingFailedError with the child's own words, and whatever `on_tick` raises."""
    newest: dict[str, Any] = {}
    ticked = -TICK_SECONDS
    with _started(folder, threads=threads) as process:
        for lines in _lines(process):
            for line in lines:
                newest = dict(json.loads(line))
            if "error" not in newest and monotonic() - ticked >= TICK_SECONDS:
                on_tick(newest)
                ticked = monotonic()
        code = process.wait()
    if "error" in newest:
        raise TrainingFailedError(str(newest["error"]))
    if code != 0:
        ending = f"signal {-code}" if code < 0 else f"code {code}"
        raise TrainingFailedError(
            f"The training process ended with {ending}: {_last_words(folder)} (see {folder / LOG})."
        )


@contextmanager
def _started(folder: Path, *, threads: int) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "GOMP_SPINCOUNT": "0",  # threads that wait do not burn the core that serving needs
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
    }
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "retrain.train", str(folder)],
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the worker, which ends its child itself
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _lines(process: subprocess.Popen[bytes]) -> Iterator[list[bytes]]:
    """The whole lines that came since the last time, at least once a second (maybe none), until the child ends."""
    assert process.stdout is not None
    handle, rest = process.stdout.fileno(), b""
    with selectors.DefaultSelector() as selector:
        selector.register(handle, selectors.EVENT_READ)
        while True:
            if not selector.select(TICK_SECONDS):
                yield []
                continue
            read = os.read(handle, 65536)
            if not read:
                return
            *whole, rest = (rest + read).split(b"\n")
            yield whole


def _last_words(folder: Path) -> str:
    lines = [line for line in (folder / LOG).read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"
