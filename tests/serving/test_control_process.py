"""A real serving, killed by the engine that it has just told to load an adapter; and its successor."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from benchmarks.mock_engine import Chat, engine_app
from benchmarks.processes import Server, free_port, plain_environment
from flywheel.database import open_database, reading
from flywheel.leases import ENGINES, Lease
from tests.conftest import wait_until

LOAD = "/v1/load_lora_adapter"


class Replica:
    """A mock engine on a port of its own, which says when it is told to load."""

    def __init__(self) -> None:
        self.on_load: Callable[[], None] = lambda: None
        self._engine = engine_app(Chat())
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(self, log_config=None, access_log=False, lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]})
        self._thread.start()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == LOAD:
            await asyncio.to_thread(self.on_load)
        await self._engine(scope, receive, send)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture
def replicas() -> Iterator[list[Replica]]:
    found = [Replica(), Replica()]
    yield found
    for replica in found:
        replica.stop()


def leader(home: Path) -> str | None:
    if not (home / "flywheel.db").exists():
        return None
    database = open_database(f"sqlite:///{home / 'flywheel.db'}", checkpoints=False)
    with reading(database) as session:
        lease = session.get(Lease, ENGINES)
    database.dispose()
    return lease.holder if lease else None


@pytest.mark.parametrize("place", [0, 1])
def test_a_serving_killed_while_a_replica_loads_is_succeeded(
    tmp_path: Path, replicas: list[Replica], place: int
) -> None:
    port = free_port()
    environment = plain_environment(tmp_path, port=port, engine="")
    environment["FLYWHEEL_ENGINE__URLS"] = json.dumps([replica.url for replica in replicas])
    server = Server(environment)
    killed = threading.Event()

    def kill() -> None:
        if not killed.is_set():
            server.kill()
            killed.set()

    replicas[place].on_load = kill
    server.start()
    assert killed.wait(60)
    first = leader(tmp_path)
    server.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            wait_until(lambda: ready_engines(http) == 2, seconds=60)
            assert first is not None
            assert leader(tmp_path) not in (None, first)
            body = {"model": "flywheel-plain", "messages": [{"role": "user", "content": "hello"}]}
            answers = [http.post("/v1/chat/completions", json=body) for _ in range(4)]
            assert [answer.status_code for answer in answers] == [200] * 4
    finally:
        server.stop()
    assert leader(tmp_path) is None  # let go of


def ready_engines(http: httpx.Client) -> int:
    try:
        return sum(engine["ready"] for engine in http.get("/v1/status").json()["engines"])
    except httpx.TransportError:
        return 0
