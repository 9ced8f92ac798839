"""What a row of the record costs the thread that writes it, with an index of conversations and without.

Two SQLite files hold the same rows; groups of them are written to each in turns, prepared and committed as the record's
writer does it. CPU is this thread's own, so neither waits for the disk nor other programs count.

    python -m benchmarks.row [--stored N] [--group N] [--rounds N] [--json]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from hashlib import sha256
from itertools import count
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.progress import track
from sqlalchemy import Engine

from benchmarks.figures import measured, show
from flywheel.database import migrate, new_id, now, open_database
from serving.statements import Prepared, Write
from serving.turn import ASK, CLOSING

INDEX = "CREATE INDEX ix_interaction_conversation ON interaction (tenant, conversation)"
GROUPS = 60
"""In a round."""
BULK = 256


class Record:
    """One file, and the statement that a whole row is written with."""

    def __init__(self, file: Path, *, indexed: bool) -> None:
        self.database: Engine = open_database(f"sqlite:///{file}")
        migrate(self.database)
        self._connection = self.database.raw_connection()
        self._cursor = self._connection.cursor()
        if indexed:
            self._cursor.execute(INDEX)
        self._prepared = Prepared(whole_row(0), self.database.dialect)

    def write(self, group: list[Write]) -> float:
        """Write them in one commit; the seconds of CPU that it took."""
        begun = time.thread_time()
        self._cursor.execute("BEGIN IMMEDIATE")
        self._cursor.executemany(self._prepared.sql, [self._prepared.row(write.values) for write in group])
        self._connection.commit()
        return time.thread_time() - begun

    def close(self) -> None:
        self._connection.close()
        self.database.dispose()


def whole_row(number: int) -> Write:
    """A short chat of an experiment's user, asked and answered; no two are of one conversation."""
    moment, handle, user = now(), new_id("chatcmpl"), f"user-{number % 500}"
    messages = [{"role": "user", "content": f"Question {number}: how much is the Maple plan for a team of five?"}]
    asked: dict[str, object] = {
        "id": handle,
        "tenant": "default",
        "request_id": new_id("req"),
        "user": user,
        "unit": user,
    }
    asked |= {"conversation": sha256(str(number).encode()).hexdigest()[:24], "alias": "flywheel-plain"}
    asked |= {"adapter": "lora-0123456789ab", "epoch": "prom-1", "experiment_id": "exp-1", "arm": "champion"}
    asked |= {"route": "plain", "content": "kept", "messages": messages, "prompt": messages, "asked_at": moment}
    asked |= {"parameters": {"temperature": 0.7, "max_tokens": 512}, "client_metadata": {}}
    closed: dict[str, object] = {**dict.fromkeys(CLOSING), "passages": [], "answer": f"{handle}.0 ", "answer_words": 1}
    closed |= {"status": "finished", "finish_reason": "stop", "finished_at": moment, "answer_seconds": 0.01}
    return Write(ASK, {**asked, **closed}, opens=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="What a row costs the record's writer.")
    parser.add_argument("--stored", type=int, default=50_000, help="rows that are there before")
    parser.add_argument("--group", type=int, default=16, help="rows in a commit")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="print the figures as a JSON list")
    arguments = parser.parse_args()
    numbers, found = count(), dict[str, list[float]]()
    with tempfile.TemporaryDirectory() as scratch:
        names = ("with the index", "without")
        records = {name: Record(Path(scratch) / f"{name}.db", indexed=name == names[0]) for name in names}
        for _ in track(range(arguments.stored // BULK), "storing rows", transient=True, console=Console(stderr=True)):
            group = [whole_row(next(numbers)) for _ in range(BULK)]
            for record in records.values():
                record.write(group)
        for _ in track(range(arguments.rounds), "writing groups", transient=True, console=Console(stderr=True)):
            for name, record in records.items():
                groups = [[whole_row(next(numbers)) for _ in range(arguments.group)] for _ in range(GROUPS)]
                spent = sum(record.write(group) for group in groups)
                found.setdefault(name, []).append(1e6 * spent / GROUPS / arguments.group)
        for record in records.values():
            record.close()
    indexed, plain = (median(found[name]) for name in names)
    title = f"A row, {arguments.stored:,} stored, {arguments.group} in a commit"
    figure = measured("CPU of the writing thread for a row", plain, "µs", peer=("with the index", indexed))
    show([figure], title, as_json=arguments.json)


if __name__ == "__main__":
    main()
