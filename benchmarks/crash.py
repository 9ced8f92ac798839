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
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import aiohttp
from rich.progress import track
from sqlmodel import select

from benchmarks.clients_that_note import Client, Notes
from benchmarks.figures import Figure, measured, show
from benchmarks.gateway import ASIDE
from benchmarks.processes import Server, answers, free_port, mock_engine, plain_environment
from flywheel.database import open_database, reading
from flywheel.feedback import RATING, Feedback
from flywheel.interactions import OPEN, Interaction

CLIENTS = 32
ALIVE_SECONDS = (0.05, 0.5)


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


def killed(kills: int, *, home: Path, seed: int = 0, database_url: str | None = None) -> tuple[Notes, Compared]:
    """Kill serving that often; what was told, and what of it is gone."""
    notes, random, port = Notes(), Random(seed), free_port()
    with mock_engine() as engine:
        environment = plain_environment(home, port=port, engine=engine)
        if database_url is not None:
            environment["FLYWHEEL_DATABASE_URL"] = database_url
        server, url = Server(environment), f"http://127.0.0.1:{port}"
        for _ in track(range(kills), "kills", transient=True, console=ASIDE):
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
        said = session.exec(
            select(Feedback.key, Feedback.completion_id, Feedback.value).where(Feedback.name == RATING)
        ).all()
    database.dispose()
    ratings = Counter(key for key, _, _ in said)
    values = {key: (about, value) for key, about, value in said}
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
