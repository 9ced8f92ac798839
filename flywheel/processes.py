"""The appliance's processes: started, waited for until healthy, watched, and stopped without orphans.

Each part runs in a session of its own, so that Ctrl-C in the terminal reaches only us and we end them in order
(SIGTERM, then SIGKILL to the whole group). Should we be killed ourselves, the kernel sends them SIGTERM (Linux
parent-death signal). What they print goes to FLYWHEEL_HOME/logs/NAME.log.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from flywheel.errors import UserError

PR_SET_PDEATHSIG = 1
STOP_SECONDS = 20.0
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Part:
    """One process of the appliance and how to tell that it is healthy."""

    name: str
    command: Sequence[str] | Callable[[], Sequence[str]]
    """Or what gives it at each start."""
    address: str | None
    """What it listens on (http://host:port); None for a part that listens on nothing."""
    health_path: str = "/"
    start_seconds: float = 60
    environment: Mapping[str, str] = field(default_factory=dict)


class Running:
    """A started part: its process, its log file, and since when."""

    def __init__(self, part: Part, *, logs: Path) -> None:
        self.part = part
        self.log = logs / f"{part.name}.log"
        logs.mkdir(parents=True, exist_ok=True)
        parent, command = os.getpid(), part.command() if callable(part.command) else part.command
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                list(command),
                env={**os.environ, **part.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: _die_with(parent),  # noqa: PLW1509  (set before exec; nothing of ours runs after it)
            )
        self.started = time.monotonic()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def healthy(self) -> bool:
        """Alive, and its address (if it has one) answers with a 2xx status."""
        if not self.alive:
            return False
        return self.part.address is None or answers(self.part.address + self.part.health_path)

    def last_words(self, lines: int = 12) -> str:
        """The end of its log: what a person needs when it died."""
        with self.log.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - 8000))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])

    def resident_bytes(self) -> int:
        """Memory of its process and all that this one started, in bytes."""
        total = 0
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.process.pid)
            total = process.memory_info().rss
            total += sum(child.memory_info().rss for child in process.children(recursive=True))
        return total

    def stop(self) -> None:
        """SIGTERM to the part, then SIGKILL to whatever of its group is left after 20 seconds."""
        if self.alive:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        _kill_group(self.process.pid)


def _die_with(parent: int) -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)  # the parent died before the signal was set


def _kill_group(group: int) -> None:
    """SIGKILL to a whole process group; returns once nothing of it is left, or after five seconds."""
    give_up = time.monotonic() + 5
    while time.monotonic() < give_up:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            return
        time.sleep(0.05)


def available_bytes() -> int:
    """Memory that another program could have: of the machine, or of our control group where that has less."""
    free, group = int(psutil.virtual_memory().available), Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        kept = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no control group, or one without a limit
        return free
    return min(free, limit - used + int(kept.get("inactive_file", 0)))  # files that were read can be forgotten


def answers(url: str, *, timeout_seconds: float = 2) -> bool:
    """Whether a GET of `url` is answered with a 2xx status."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_seconds) as answer:
            return bool(200 <= answer.status < 300)
    except (urllib.error.URLError, OSError):
        return False


def port_is_free(address: str) -> bool:
    """Whether we could listen on the host and port of `address` now."""
    parts = urlsplit(address)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((parts.hostname or "127.0.0.1", parts.port or 80))
        except OSError:
            return False
    return True


class Supervisor:
    """Holds the running parts; as a context manager it stops all of them, last started first, whatever happened."""

    def __init__(self, parts: Sequence[Part], *, logs: Path) -> None:
        self.parts = parts
        self.logs = logs
        self.running: dict[str, Running] = {}

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start every part, after a look at every port. Raises UserError when one is taken."""
        for part in self.parts:
            if part.address is not None and not port_is_free(part.address):
                raise UserError(
                    f"{part.name} cannot listen on {part.address}: something else does. "
                    "Stop it, or choose another port with --set (the README lists the settings)."
                )
        for part in self.parts:
            self.running[part.name] = Running(part, logs=self.logs)

    def wait_until_healthy(self, on_change: Callable[[str, float], None] = lambda _name, _seconds: None) -> None:
        """Return once every part is healthy; `on_change` hears of each with the seconds it took.

        Raises UserError with the end of the log when a part dies or takes longer than its `start_seconds`.
        """
        waiting = dict(self.running)
        while waiting:
            for name, running in list(waiting.items()):
                seconds = time.monotonic() - running.started
                if running.healthy:
                    del waiting[name]
                    on_change(name, seconds)
                elif not running.alive:
                    raise UserError(f"{name} ended while starting. The end of {running.log}:\n{running.last_words()}")
                elif seconds > running.part.start_seconds:
                    raise UserError(
                        f"{name} is not healthy after {seconds:.0f} s. "
                        f"The end of {running.log}:\n{running.last_words()}"
                    )
            time.sleep(0.2)

    def start_part(self, part: Part) -> None:
        """Start one more."""
        self.running[part.name] = Running(part, logs=self.logs)

    def stop_part(self, name: str) -> None:
        """Stop one for good."""
        self.running.pop(name).stop()

    def restart_dead(self) -> list[str]:
        """Start again what has died; the names of those parts."""
        dead = [name for name, running in self.running.items() if not running.alive]
        for name in dead:
            self.running[name].stop()
            self.running[name] = Running(self.running[name].part, logs=self.logs)
        return dead

    def stop(self) -> None:
        """Stop all, last started first."""
        for running in reversed(self.running.values()):
            running.stop()
        self.running.clear()
