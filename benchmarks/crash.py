"""What is lost when the server is killed: SIGKILL at random moments under 32 concurrent chats and ratings.

Serving runs as its own process with its real writer; the engine is `benchmarks.mock_engine`. A client notes what was
acknowledged: a first byte means that the question is on disk, the end of an answer that all of it is, 200 on a rating
that the rating is. After the last kill serving starts once more, and the record is compared with the notes. What a
power cut would lose is another question: see tests/serving/test_disk.py for the order of fdatasync and send.

    python -m benchmarks.crash [--kills N] [--seed N] [--database-url URL] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import orjson
from sqlmodel import select

from benchmarks.clients_that_note import Client, Notes
from benchmarks.figures import Figure, measured, show
from flywheel.database import open_database, reading
from flywheel.feedback import Feedback
from flywheel.interactions import OPEN, Interaction

CLIENTS = 32
ALIVE_SECONDS = (0.05, 0.5)
START_SECONDS = 60
PRELOADED = [
    "serving.app",
    "serving.records",
    "uvicorn",
    "uvloop",
    "httptools",
    "alembic.command",
    "sentence_transformers",
]
"""Imported once: a fork of that process is the server, so that a hundred starts take a minute."""


@dataclass(frozen=True)
class Compared:
    """What was acknowledged and is not there afterwards; all but `interrupted` have to be 0."""

    questions: int
    answers: int
    ratings: int
    doubled_ratings: int
    still_open: int
    wrong_words: int
    """Interrupted rows whose text is not the beginning of what was said."""
    interrupted: int
    """Rows that a kill left open, closed by the next start."""


def serve(environment: dict[str, str]) -> None:
    """The server's process."""
    os.environ.update(environment)
    quiet = os.open(environment["FLYWHEEL_HOME"] + "/serving.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    from serving.__main__ import main  # noqa: PLC0415  (with the environment as it is now)

    main()


class Server:
    """Serving as a process that can be killed and started again on the same home."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self._process: Any = None

    def start(self) -> None:
        self._process = self._context.Process(target=serve, args=(self._environment,))
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


async def one_life(url: str, notes: Notes, random: Random, server: Server) -> None:
    """Clients speak to the server for a moment; then it is killed."""
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as http:
        await answers(http, url)
        users = [Client(url, notes, http, Random(random.random())) for _ in range(CLIENTS)]
        tasks = [asyncio.create_task(user.run()) for user in users]
        await asyncio.sleep(random.uniform(*ALIVE_SECONDS))
        server.kill()
        await asyncio.sleep(0.02)  # what had left the server still arrives
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    broken = [error for error in ended if not isinstance(error, asyncio.CancelledError)]
    if broken:
        raise RuntimeError("a client of the harness broke") from broken[0]


async def last_life(url: str, notes: Notes) -> None:
    """The server's start closes what was open; ratings whose fate nobody knew are sent again."""
    async with aiohttp.ClientSession() as http:
        await answers(http, url)
        user = Client(url, notes, http, Random(0))
        for key, (completion_id, value) in list(notes.unsure.items()):
            await user.rate(key, completion_id, value=value)


async def answers(http: aiohttp.ClientSession, url: str) -> None:
    """Return once a chat is answered."""
    body = {"model": "flywheel-plain", "messages": [{"role": "user", "content": "hello"}]}
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up:
        with suppress(aiohttp.ClientError):
            async with http.post(f"{url}/v1/chat/completions", json=body) as response:
                if response.status == 200:
                    return
        await asyncio.sleep(0.02)
    raise TimeoutError(f"Serving did not answer within {START_SECONDS} s.")


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


def killed(kills: int, *, home: Path, seed: int = 0, database_url: str | None = None) -> tuple[Notes, Compared]:
    """Kill serving that often; what was told, and what of it is gone."""
    notes, random, port = Notes(), Random(seed), free_port()
    with mock_engine() as engine:
        environment = plain_environment(home, port=port, engine=engine)
        if database_url is not None:
            environment["FLYWHEEL_DATABASE_URL"] = database_url
        server, url = Server(environment), f"http://127.0.0.1:{port}"
        for _ in range(kills):
            server.start()
            asyncio.run(one_life(url, notes, random, server))
        server.start()
        asyncio.run(last_life(url, notes))
        server.stop()
    return notes, compare(notes, database_url or f"sqlite:///{home / 'flywheel.db'}")


def compare(notes: Notes, database_url: str) -> Compared:
    """The record against what the clients were told."""
    database = open_database(database_url)
    with reading(database) as session:
        rows = {row.id: row for row in session.exec(select(Interaction))}
        ratings = Counter(key for key in session.exec(select(Feedback.key)) if key)
        values = {key: (about, value) for key, about, value in session.exec(
            select(Feedback.key, Feedback.completion_id, Feedback.value)) if key}  # fmt: skip
    database.dispose()
    cut = [row for row in rows.values() if row.status == "interrupted"]
    finished = {one for one, text in notes.done.items() if one in rows and rows[one].answer == text}
    return Compared(
        questions=len((notes.begun | set(notes.done)) - set(rows)),
        answers=len(set(notes.done) - {one for one in finished if rows[one].status == "finished"}),
        ratings=sum(values.get(key) != said for key, said in notes.rated.items()),
        doubled_ratings=sum(count > 1 for count in ratings.values()),
        still_open=sum(row.status == OPEN for row in rows.values()),
        wrong_words=sum(not _is_beginning(row) for row in cut),
        interrupted=len(cut),
    )


def _is_beginning(row: Interaction) -> bool:
    handle = row.id.removeprefix("chatcmpl-")
    whole = "".join(f"{handle}.{number} " for number in range(20))
    return whole.startswith(row.answer or "")


def figures_of(kills: int, notes: Notes, compared: Compared) -> Iterator[Figure]:
    none = ("<=", 0.0)
    yield measured("kills", kills, "SIGKILLs")
    yield measured("answers acknowledged", len(notes.done), "answers")
    yield measured("ratings acknowledged", len(notes.rated), "ratings")
    yield measured("rows closed as interrupted", compared.interrupted, "rows")
    yield measured("begun answers without a row", compared.questions, "answers", target=none)
    yield measured("whole answers lost or changed", compared.answers, "answers", target=none)
    yield measured("ratings lost", compared.ratings, "ratings", target=none)
    yield measured("ratings kept twice", compared.doubled_ratings, "ratings", target=none)
    yield measured("rows still open after the next start", compared.still_open, "rows", target=none)
    yield measured("interrupted rows with words nobody said", compared.wrong_words, "rows", target=none)


def main() -> None:
    parser = argparse.ArgumentParser(description="What is lost when the server is killed.")
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--database-url", help="an empty PostgreSQL database; without it, SQLite in a folder of its own"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as a JSON list")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        found = killed(arguments.kills, home=Path(home), seed=arguments.seed, database_url=arguments.database_url)
    show(list(figures_of(arguments.kills, *found)), "The record under SIGKILL, 32 clients", as_json=arguments.json)


if __name__ == "__main__":
    main()
