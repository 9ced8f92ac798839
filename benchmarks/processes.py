"""What is measured runs as processes of its own: serving, the mock engine, and the CPU that a process has used."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import psutil

START_SECONDS = 60
PRELOADED = [
    "__main__",
    "serving.app",
    "serving.records",
    "uvicorn",
    "uvloop",
    "httptools",
    "alembic.command",
    "sentence_transformers",
]
"""Imported once: a fork of that process is the server, so that a hundred starts take a minute."""


def serve(environment: dict[str, str]) -> None:
    """The server's process."""
    os.environ.update(environment)
    quiet = os.open(environment["FLYWHEEL_HOME"] + "/serving.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    from serving.__main__ import main  # noqa: PLC0415  (with the environment as it is now)

    main()


def serve_unrecorded(environment: dict[str, str]) -> None:
    """The same with a writer that says at once that all is written, and writes nothing: what is left costs the rest."""
    from serving.submission import Opening  # noqa: PLC0415
    from serving.writer import RecordWriter  # noqa: PLC0415

    def written(*_what: object, **_how: object) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    RecordWriter.submit = RecordWriter.end = written  # type: ignore[method-assign]
    RecordWriter.open = lambda _self, write, *, hurried: Opening(write)  # type: ignore[method-assign,assignment]
    serve(environment)


class Server:
    """Serving as a process that can be killed and started again on the same home."""

    def __init__(self, environment: dict[str, str], serving: Callable[[dict[str, str]], None] = serve) -> None:
        self._environment, self._serving = environment, serving
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self._process: Any = None

    def start(self) -> None:
        self._process = self._context.Process(target=self._serving, args=(self._environment,))
        self._process.start()

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.join()

    def stop(self) -> None:
        """SIGTERM."""
        self._process.terminate()
        self._process.join(30)


async def answers(http: aiohttp.ClientSession, url: str, *, within_seconds: float = START_SECONDS) -> None:
    """Return once a chat is answered. Raises TimeoutError."""
    body = {"model": "flywheel-plain", "messages": [{"role": "user", "content": "hello"}]}
    give_up = time.monotonic() + within_seconds
    while time.monotonic() < give_up:
        with suppress(aiohttp.ClientError):
            async with http.post(f"{url}/v1/chat/completions", json=body) as response:
                if response.status == 200:
                    return
        await asyncio.sleep(0.02)
    raise TimeoutError(f"Serving did not answer within {within_seconds} s.")


@contextmanager
def mock_engine() -> Iterator[str]:
    """The engine as a process; where it answers."""
    port = free_port()
    with subprocess.Popen([sys.executable, "-m", "benchmarks.mock_engine", str(port)]) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def plain_environment(home: Path, *, port: int, engine: str) -> dict[str, str]:
    """Settings of a server that answers plain chats, without keys."""
    return {
        "FLYWHEEL_HOME": str(home),
        "FLYWHEEL_ENGINE__URLS": orjson.dumps([engine]).decode(),
        "FLYWHEEL_SERVING__PORT": str(port),
        "FLYWHEEL_SERVING__REQUIRE_KEYS": "false",
        "FLYWHEEL_SERVING__RECONCILE_SECONDS": "0.2",
        "FLYWHEEL_RAG__EMBEDDING_MODEL": "/nowhere",  # plain chats need none, and it takes seconds to load
    }


def cpu_seconds(pid: int) -> float:
    """What all threads of a process and its descendants have run so far, as the kernel's scheduler counts it."""
    process = psutil.Process(pid)
    return sum(_of_threads(one.pid) for one in [process, *process.children(recursive=True)])


def _of_threads(pid: int) -> float:
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # it has just ended
            total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9
