"""Clients that go away in the middle, and a disk that takes no more: a server of its own before the mock engine."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

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
    yield from run(tmp_path)


@pytest.fixture
def running_on_a_small_disk(tmp_path: Path) -> Iterator[Running]:
    """Its home alone on a file system of 48 MB. The log lies elsewhere, so that it can be read."""
    home, log = tmp_path / "small", tmp_path / "serving.log"
    home.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(home)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no small disk without the right to mount one: {mounted.stderr.strip()}")
    try:
        log.touch()
        (home / "serving.log").symlink_to(log)
        yield from run(home)
    finally:
        subprocess.run(["umount", "--lazy", home], check=True)


def run(home: Path) -> Iterator[Running]:
    url = f"http://127.0.0.1:{(port := free_port())}"
    with mock_engine() as engine:
        server = Server(plain_environment(home, port=port, engine=engine))
        server.start()
        asyncio.run(until_answered(url))
        yield Running(url, home, server)
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


@dataclass
class Told:
    """What clients were told while the disk was full and empty by turns."""

    answers: list[str] = field(default_factory=list)
    """Ids of answers that came as whole."""
    broken: list[str] = field(default_factory=list)
    """Of streams that ended in an error."""
    ratings: list[str] = field(default_factory=list)
    refused: int = 0

    async def ask(self, http: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> None:
        """Ask, and rate what came."""
        async with http.post(f"{url}/v1/chat/completions", json=body) as response:
            text = await response.text()
            if self.refuses(response, text):
                return await asyncio.sleep(0.02)
        found = text.split('"id":"')[1].split('"')[0]
        whole = "[DONE]" in text if body["stream"] else "error" not in text
        assert whole or '"code":"unavailable"' in text, text
        (self.answers if whole else self.broken).append(found)
        async with http.post(f"{url}/v1/feedback", json={"completion_id": found, "value": True}) as response:
            if not self.refuses(response, await response.text()):
                self.ratings.append((await response.json())["id"])
        return None

    def refuses(self, response: aiohttp.ClientResponse, text: str) -> bool:
        """Whether it is a refusal, and then one that says when to come again."""
        assert response.status in (200, 503), text
        if response.status == 503:
            assert response.headers["retry-after"] == "1"
            self.refused += 1
        return response.status == 503


@pytest.mark.timeout(120)
def test_full_disk_under_load_loses_nothing_and_leaves_no_row_open(running_on_a_small_disk: Running) -> None:
    """Another file takes all space and gives it back, twice, while chats of all lengths are under way."""
    running, told, over = running_on_a_small_disk, Told(), asyncio.Event()
    filler = running.home / "filler"

    async def user(http: aiohttp.ClientSession, number: int) -> None:
        turn = 0
        while not over.is_set():
            turn += 1
            words = f"chunks=10 delay={0.05 * (number % 3)} {number} {turn} " + "x" * 2000
            message = {"role": "user", "content": words}
            await told.ask(
                http, running.url, {"model": "flywheel-plain", "messages": [message], "stream": number % 2 == 0}
            )

    def fill_and_free() -> None:
        answered, refused = len(told.answers), told.refused
        fill(filler)
        time.sleep(1.0)
        assert told.refused > refused
        filler.unlink()
        wait_until(lambda: len(told.answers) > answered + 20, seconds=10)

    async def load() -> None:
        async with aiohttp.ClientSession() as http:
            users = [asyncio.create_task(user(http, number)) for number in range(12)]
            for _ in range(2):
                await asyncio.sleep(0.5)
                await asyncio.to_thread(fill_and_free)
            over.set()
            await asyncio.gather(*users)

    asyncio.run(load())
    assert told.broken
    wait_until(lambda: all(row.status != OPEN for row in running.rows()), seconds=10)
    rows = {row.id: row.status for row in running.rows()}
    assert {rows[one] for one in told.answers} == {"finished"}
    assert {rows[one] for one in told.broken} == {"failed"}
    with closing(sqlite3.connect(running.home / "flywheel.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert set(told.ratings) <= {found for (found,) in database.execute("SELECT id FROM feedback")}


def fill(file: Path) -> None:
    """Until there is no byte left."""
    with file.open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space left"):
        while True:
            filler.write(bytes(1 << 16))
