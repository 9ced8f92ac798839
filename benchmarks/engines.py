"""vLLM as the appliance starts it: a replica that can be killed, started again and weighed."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil

from flywheel.parts import engine_command, engine_environment
from flywheel.processes import Part, Running
from flywheel.settings import Settings

GIVE_UP_SECONDS = 300.0


class Replica:
    """One vLLM on the settings' first engine address."""

    def __init__(self, settings: Settings, logs: Path) -> None:
        self.url = settings.engine.urls[0]
        command, environment = engine_command(settings, cpu=True), engine_environment(settings, cpu=True)
        self._part = Part("engine", command, self.url, "/health", environment=environment)
        self._logs = logs

    def start(self) -> None:
        """In the main thread: the engine ends with the thread that started it."""
        self._running = Running(self._part, logs=self._logs)

    def wait(self) -> float:
        """Seconds from its start until it answered. Raises RuntimeError with its last words."""
        while not self._running.healthy:
            if not self._running.alive or time.monotonic() - self._running.started > GIVE_UP_SECONDS:
                self._running.stop()
                raise RuntimeError(self._running.last_words(20))
            time.sleep(0.1)
        return time.monotonic() - self._running.started

    @property
    def pid(self) -> int:
        return self._running.process.pid

    def kill(self) -> None:
        """SIGKILL to its whole process group."""
        os.killpg(self.pid, signal.SIGKILL)
        self._running.process.wait()

    def stop(self) -> None:
        self._running.stop()

    def memory(self) -> int:
        """Bytes that its process tree alone needs: pages that are shared count in parts."""
        process, total = psutil.Process(self.pid), 0
        for one in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                total += one.memory_full_info().pss
        return total
