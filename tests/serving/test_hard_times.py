"""Clients that go away in the middle, and a disk that takes no more: a server of its own before the mock engine."""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import aiohttp
import httpx
import pytest
from sqlmodel import select

from benchmarks.processes import Server, answers, free_port, mock_engine, plain_environment
from flywheel.database import open_database, reading
from flywheel.interactions import OPEN, Interaction
from tests.conftest import wait_until

DISCONNECTS = 1000
AT_ONCE = 50
CHUNKS = 12


@dataclass
class Running:
    url: str
    home: Path
    server: Server

    def rows(self) -> list[Interaction]:
        database = open_database(f"sqlite:///{self.home / 'flywheel.db'}", checkpoints=False)
        with reading(database) as session:
            found = list(session.exec(select(Interaction)))
        database.dispose()
        return found


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    url = f"http://127.0.0.1:{(port := free_port())}"
    with mock_engine() as engine:
        server = Server(plain_environment(tmp_path, port=port, engine=engine))
        server.start()
        asyncio.run(until_answered(url))
        yield Running(url, tmp_path, server)
        server.stop()


async def until_answered(url: str) -> None:
    async with aiohttp.ClientSession() as http:
        await answers(http, url)


async def leave_early(http: aiohttp.ClientSession, url: str, number: int, gate: asyncio.Semaphore) -> None:
    """Ask, read some chunks (perhaps none, perhaps all), and close the connection."""
    random = Random(number)
    body = {
        "model": "flywheel-plain",
        "stream": True,
        "messages": [{"role": "user", "content": f"chunks={CHUNKS} delay=0.03"}],
        "metadata": {"number": str(number)},
    }
    async with gate:
        response = await http.post(f"{url}/v1/chat/completions", json=body)
        assert response.status == 200
        for _ in range(random.randint(0, CHUNKS)):
            await response.content.readline()
            await response.content.readline()
        response.close()


@pytest.mark.timeout(300)
def test_a_thousand_disconnects_leave_a_thousand_rows(running: Running) -> None:
    async def leave_all() -> None:
        gate = asyncio.Semaphore(AT_ONCE)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            await asyncio.gather(*(leave_early(http, running.url, number, gate) for number in range(DISCONNECTS)))

    asyncio.run(leave_all())
    wait_until(lambda: all(row.status != OPEN for row in running.rows()), seconds=60)
    left = [row for row in running.rows() if "number" in row.client_metadata]
    assert sorted(int(row.client_metadata["number"]) for row in left) == list(range(DISCONNECTS))
    states = Counter(row.status for row in left)
    assert set(states) <= {"cancelled", "finished"}
    assert states["cancelled"] > DISCONNECTS / 2
    for row in left:
        handle = row.id.removeprefix("chatcmpl-")
        assert "".join(f"{handle}.{number} " for number in range(CHUNKS)).startswith(row.answer or "")


@pytest.mark.timeout(120)
def test_a_disk_that_takes_no_more_is_said_and_nothing_acknowledged_is_lost(running: Running) -> None:
    """The limit on the file's size makes its writes fail as a full disk does, and can be lifted again."""
    body = {"model": "flywheel-plain", "messages": [{"role": "user", "content": "hello"}]}
    kept, free = [], resource.getrlimit(resource.RLIMIT_FSIZE)
    with httpx.Client(base_url=running.url, timeout=30) as http:
        for _ in range(3):
            kept.append(http.post("/v1/chat/completions", json=body).json()["id"])
            resource.prlimit(running.server.pid, resource.RLIMIT_FSIZE, (4096, free[1]))
            for path, wish in (
                ("/v1/chat/completions", body),
                ("/v1/chat/completions", {**body, "stream": True}),
                ("/v1/feedback", {"completion_id": kept[-1], "value": True}),
            ):
                refused = http.post(path, json=wish)
                assert refused.status_code == 503, (path, refused.text)
                assert refused.headers["retry-after"] == "1"
                assert refused.json()["error"]["code"] == "unavailable"
            resource.prlimit(running.server.pid, resource.RLIMIT_FSIZE, free)
            kept.append(http.post("/v1/chat/completions", json=body).json()["id"])
            assert http.post("/v1/feedback", json={"completion_id": kept[-1], "value": True}).status_code == 200
    rows = {row.id: row for row in running.rows()}
    assert {rows[one].status for one in kept} == {"finished"}
    assert all(row.status != OPEN for row in rows.values())
