"""A full disk, and a database server that is away, while chats of all lengths are under way."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import psycopg
import pytest
from sqlalchemy import Engine
from sqlmodel import col, select

from benchmarks.processes import Server, answers, free_port, mock_engine, plain_environment
from flywheel.database import open_database, reading
from flywheel.feedback import Feedback
from flywheel.interactions import OPEN, Interaction
from tests.conftest import wait_until

USERS = 12
TIMES = 2
TROUBLE_SECONDS = 1.0
HELLO = {"model": "flywheel-plain", "messages": [{"role": "user", "content": "hello"}]}


@dataclass
class Place:
    """Where a record lies that can get into trouble."""

    home: Path
    database_url: str
    trouble: Callable[[], AbstractContextManager[None]]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Place]:
    """A home with a file system of its own, of 48 MB. The log lies elsewhere, so that it can be read."""
    home, log = tmp_path / "small", tmp_path / "serving.log"
    home.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(home)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small disk takes the right to mount one: {mounted.stderr.strip()}")
    log.touch()
    (home / "serving.log").symlink_to(log)
    yield Place(home, f"sqlite:///{home / 'flywheel.db'}", partial(full, home / "filler"))
    subprocess.run(["umount", "--lazy", str(home)], check=True)


@contextmanager
def full(filler: Path) -> Iterator[None]:
    """Another file takes all space, to the last byte."""
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(1 << 16))
    try:
        yield
    finally:
        filler.unlink()


@pytest.fixture
def server(database_url: str, tmp_path: Path) -> Place:
    """A database of a server."""
    return Place(tmp_path, database_url, partial(away, database_url))


@contextmanager
def away(database_url: str) -> Iterator[None]:
    """The server ends all sessions, and allows no new ones."""
    address, name = database_url.rsplit("/", 1)
    allow = "UPDATE pg_database SET datallowconn = %s WHERE datname = %s"
    with psycopg.connect(f"{address}/postgres", autocommit=True) as admin:
        admin.execute(allow, (False, name))
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        try:
            yield
        finally:
            admin.execute(allow, (True, name))


@dataclass
class Told:
    """What clients were told."""

    answers: list[str] = field(default_factory=list)
    """Ids of answers that came as whole."""
    broken: list[str] = field(default_factory=list)
    """Of streams that ended in an error."""
    ratings: list[str] = field(default_factory=list)
    refused: int = 0

    async def ask(self, http: aiohttp.ClientSession, body: dict[str, Any]) -> None:
        """Ask, and rate what came."""
        async with http.post("/v1/chat/completions", json=body) as response:
            text = await response.text()
            if self.refuses(response, text):
                return await asyncio.sleep(0.02)
        found = text.split('"id":"')[1].split('"')[0]
        whole = "data: [DONE]" in text or not body["stream"]
        assert whole or '"code":"unavailable"' in text, text
        (self.answers if whole else self.broken).append(found)
        async with http.post("/v1/feedback", json={"completion_id": found, "value": True}) as response:
            if not self.refuses(response, await response.text()):
                self.ratings.append((await response.json())["id"])
        return None

    def refuses(self, response: aiohttp.ClientResponse, text: str) -> bool:
        """Whether it is a refusal: one that says when to come again."""
        assert response.status in (200, 503), text
        if response.status == 200:
            return False
        assert response.headers["retry-after"] == "1"
        self.refused += 1
        return True


@pytest.mark.timeout(120)
def test_full_disk_under_load_loses_nothing_and_leaves_no_row_open(small_disk: Place) -> None:
    stand(small_disk)


@pytest.mark.timeout(120)
@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_server_that_is_away_under_load_loses_nothing_and_leaves_no_row_open(server: Place) -> None:
    stand(server)


@contextmanager
def serving_at(home: Path, database_url: str) -> Iterator[str]:
    """A server of plain chats before the mock engine; its URL."""
    port = free_port()
    with mock_engine() as engine:
        environment = plain_environment(home, port=port, engine=engine)
        serving = Server(environment | {"FLYWHEEL_DATABASE_URL": database_url})
        serving.start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            serving.stop()


def stand(place: Place) -> None:
    """Get into trouble under load, and look at what was told and what is there."""
    told, database = Told(), open_database(place.database_url, checkpoints=False)
    with serving_at(place.home, place.database_url) as url:
        asyncio.run(trouble_under_load(url, place, told))
        wait_until(lambda: OPEN not in statuses(database).values(), seconds=10)
    rows = statuses(database)
    assert {rows[one] for one in told.answers} == {"finished"}
    assert {rows[one] for one in told.broken} == {"failed"}
    with reading(database) as session:
        assert set(told.ratings) <= set(session.exec(select(col(Feedback.id))))
    if database.dialect.name == "sqlite":
        with database.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    database.dispose()


async def trouble_under_load(url: str, place: Place, told: Told) -> None:
    over = asyncio.Event()

    async def user(http: aiohttp.ClientSession, number: int) -> None:
        turn = 0
        while not over.is_set():
            words = f"chunks=10 delay={0.05 * (number % 3)} {number} {(turn := turn + 1)} " + "x" * 2000
            body = {"model": "flywheel-plain", "messages": [{"role": "user", "content": words}]}
            await told.ask(http, body | {"stream": number % 2 == 0})

    def get_into_trouble() -> None:
        answered, refused = len(told.answers), told.refused
        with place.trouble():
            time.sleep(TROUBLE_SECONDS)
            assert told.refused > refused
        wait_until(lambda: len(told.answers) > answered + USERS, seconds=10)

    async with aiohttp.ClientSession(url) as http:
        await answers(http, url)
        users = [asyncio.create_task(user(http, number)) for number in range(USERS)]
        try:
            for _ in range(TIMES):
                await asyncio.sleep(0.5)
                await asyncio.to_thread(get_into_trouble)
        finally:
            over.set()
            await asyncio.gather(*users)
    assert told.broken


@pytest.mark.timeout(120)
def test_while_a_commit_hangs_newcomers_are_refused_and_who_waits_is_answered(
    database: Engine, database_url: str, tmp_path: Path
) -> None:
    with serving_at(tmp_path, database_url) as url, httpx.Client(base_url=url, timeout=20) as http:
        asyncio.run(until_answered(url))
        kept = http.post("/v1/chat/completions", json=HELLO).json()["id"]
        rating = {"completion_id": kept, "value": True}
        with ThreadPoolExecutor(1) as beside:
            with held(database):
                waits = beside.submit(http.post, "/v1/chat/completions", json=HELLO)
                wait_until(lambda: not http.get("/readyz").json()["parts"]["writer"]["ready"], seconds=10)
                for path, body in (("/v1/chat/completions", HELLO), ("/v1/feedback", rating)):
                    refused = http.post(path, json=body)
                    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1"), path
                    assert "behind" in refused.json()["error"]["message"]
                    assert refused.elapsed.total_seconds() < 1, path
                assert not waits.done()
            assert waits.result().status_code == 200
        wait_until(lambda: http.post("/v1/chat/completions", json=HELLO).status_code == 200, seconds=5)
        assert http.post("/v1/feedback", json=rating).status_code == 200
        assert {kept, waits.result().json()["id"]} < statuses(database).keys()
    assert set(statuses(database).values()) == {"finished"}


@contextmanager
def held(database: Engine) -> Iterator[None]:
    """Somebody else has the lock that a new row needs."""
    sqlite = database.dialect.name == "sqlite"
    with database.connect().execution_options(sqlite_immediate=sqlite) as connection:
        connection.exec_driver_sql("SELECT 1" if sqlite else "LOCK TABLE interaction")
        yield


async def until_answered(url: str) -> None:
    async with aiohttp.ClientSession() as http:
        await answers(http, url)


def statuses(database: Engine) -> dict[str, str]:
    """By id."""
    with reading(database) as session:
        return dict(session.exec(select(col(Interaction.id), col(Interaction.status))).all())
