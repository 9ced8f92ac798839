"""The one thread that writes interactions and feedback, many rows to a commit.

Invariants: an awaited submission is committed (and so on disk: synchronous=FULL) when the await returns; within a
commit the rows that others are about come first, and writes of one statement keep the order they came in; a submission
that is at fault does not take its neighbours with it; a row on disk whose end could not be written, because the
database was in trouble, is ended after it (`serving/unended.py`). Rows that still wait when the process dies are lost;
nobody was told that they were kept.

A commit costs more than a row of it, and a row that is written twice nearly twice as much as one. So while other chats
are under way a group gathers for some milliseconds (a lonely row is committed at once), and a row that nobody waits for
yet is put off for some more: many a chat is over by then, and its row is written once and whole.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from sqlalchemy import Engine
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import PoolProxiedConnection

from flywheel.database import in_trouble, reason_of
from flywheel.errors import DatabaseTroubleError, FlywheelError, UnavailableError
from serving.disk import Disk
from serving.statements import ROW, Prepared, Write
from serving.submission import DoubtError, Opening, Submission, settle
from serving.unended import Unended

GROUP_LIMIT = 256
GATHER_SECONDS = 0.008
"""How long a row waits for company while other chats are under way."""
PUT_OFF_SECONDS = 0.02
"""How long a row is put off that nobody waits for yet: so long at least, and no longer than twice that."""
SLOW_SECONDS, STALLED_SECONDS = 0.25, 2.0
"""A commit that takes longer: rows are awaited before engines are asked; new requests are refused until it is over."""
log = logging.getLogger(__name__)


class Alarm(NamedTuple):
    """When the bell is to ring next."""

    loop: asyncio.AbstractEventLoop
    due: float
    handle: asyncio.Handle


class RecordWriter:
    """Holds the thread and what waits for it. With `limit` submissions waiting, new requests are refused."""

    def __init__(self, database: Engine, *, limit: int) -> None:
        self.database = database
        self.limit = limit
        self.groups = 0
        self.rows = 0
        self.on_commit: Callable[[int], None] = lambda rows: None
        """Told of each commit's rows, in the writer's thread."""
        self._unended = Unended(limit=limit)
        self._driver_error: type[Exception] = database.dialect.loaded_dbapi.Error
        self._connection: PoolProxiedConnection | None = None
        self._prepared: dict[tuple[object, ...], Prepared] = {}
        self._coming: deque[Submission] = deque()
        self._bell: queue.SimpleQueue[bool] = queue.SimpleQueue()
        """True: what has come is to be written. False: nothing more will come."""
        self._alarm: Alarm | None = None
        self._open = 0
        """Rows that were opened here and have not ended."""
        self._younger: dict[str, Opening] = {}
        self._older: dict[str, Opening] = {}
        """What is put off, by row."""
        self._turning: asyncio.AbstractEventLoop | None = None
        """Where a timer runs after which the younger are the older ones."""
        self._begun: float | None = None
        """Since when (monotonic) the group of now is being written."""
        self._failing = False
        self._disk = Disk(database)
        self._thread = threading.Thread(target=self._run, name="record-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Write what is queued, then end. Blocks. Nothing is put off any more once all chats are over."""
        self._bell.put(False)
        self._thread.join()

    @property
    def waiting(self) -> int:
        return len(self._coming)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def behind(self) -> bool:
        """Whether new requests are refused: too many rows wait, a commit hangs, or nobody writes any more."""
        stalled = self._seconds_of_now() > STALLED_SECONDS
        return stalled or self.waiting >= self.limit or not self._thread.is_alive()

    @property
    def steady(self) -> bool:
        """Whether all goes well and there is room: then an engine may be asked while the row is still on its way."""
        return not self._failing and self._disk.roomy and self._seconds_of_now() < SLOW_SECONDS

    def _seconds_of_now(self) -> float:
        """How long the group of now has been under way; 0 when none is."""
        begun = self._begun
        return 0.0 if begun is None else time.monotonic() - begun

    def submit(self, *writes: Write) -> asyncio.Future[None]:
        """Queue `writes` as one; the future resolves once they are committed. Call it on the event loop.

        Raises UnavailableError at once when the writer is behind.
        """
        self.refuse_when_behind()
        return self._queue(writes)

    def open(self, write: Write, *, hurried: bool) -> Opening:
        """Queue a row that `end` will end, or put it off when nobody waits for it yet. Raises as `submit` does."""
        self.refuse_when_behind()
        opening = Opening(write)
        if hurried:
            opening.future = self.submit(write)
        else:
            self._younger[opening.row] = opening
            self._turn_later()
        self._open += 1
        return opening

    def end(self, opening: Opening, write: Write, *more: Write, final: bool = True) -> asyncio.Future[None]:
        """Queue how a row ended: `completion_id` in the values names it, all else is a column. What was put off until
        now, or could not be written, is written whole. If the database is in trouble the row is ended after it, unless
        this is not the `final` word: then another follows should it fail."""
        self._open -= not opening.ended  # it is ended a second time when the first could not be written
        opening.ended, row = True, opening.row
        if self._younger.pop(row, None) or self._older.pop(row, None) or opening.failed:
            values = {**opening.write.values, **write.values}
            del values[ROW]
            whole = Write(opening.write.statement, values, opens=True)
            opening.future = self._queue((whole, *more))
            return opening.future
        return self._queue((write, *more), ends=row if final else None)

    def _queue(self, writes: Sequence[Write], *, ends: str | None = None) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._coming.append(Submission(writes, future, loop, ends))
        self._ring(loop, GATHER_SECONDS if self._open else 0.0)
        return future

    def refuse_when_behind(self) -> None:
        """Raises UnavailableError. Routes that read before they submit call it first: the read might hang as well."""
        if self.behind:
            raise UnavailableError("The record is behind: too many rows wait for the disk. Try again in a moment.")

    def _turn_later(self) -> None:
        loop = asyncio.get_running_loop()
        if self._turning is not loop:
            self._turning = loop
            loop.call_later(PUT_OFF_SECONDS, self._turn)

    def _turn(self) -> None:
        """Queue what has been put off for long enough."""
        self._turning = None
        for opening in self._older.values():
            opening.future = self._queue((opening.write,))
        self._older, self._younger = self._younger, {}
        if self._older:
            self._turn_later()

    def _ring(self, loop: asyncio.AbstractEventLoop, within: float) -> None:
        """See to it that the bell rings then, or earlier."""
        due, alarm = loop.time() + within, self._alarm
        if alarm is not None and alarm.loop is loop:
            if alarm.due <= due:
                return
            alarm.handle.cancel()
        handle = loop.call_later(within, self._wake) if within else loop.call_soon(self._wake)
        self._alarm = Alarm(loop, due, handle)

    def _wake(self) -> None:
        self._alarm = None
        self._bell.put(True)

    def _run(self) -> None:
        going = True
        while going:
            with suppress(queue.Empty):
                going = self._bell.get(timeout=self._unended.wait)
            self._write_waiting()
            for group in self._unended.groups(GROUP_LIMIT, last=not going):
                self._write_group(group)
        if self._connection is not None:
            self._connection.close()

    def _write_waiting(self) -> None:
        """What has come until now. What comes meanwhile rings again."""
        left = len(self._coming)
        while left:
            group = [self._coming.popleft() for _ in range(min(GROUP_LIMIT, left))]
            left -= len(group)
            self._write_group(group)

    def _write_group(self, group: list[Submission]) -> None:
        error = self._commit(group)
        if error is None or len(group) == 1 or isinstance(error, DoubtError):
            self._tell(group, error)
            return
        for place, submission in enumerate(group):  # if one is at fault, only that one fails
            error = self._commit([submission])
            if isinstance(error, DatabaseTroubleError):  # nobody is
                self._tell(group[place:], error)
                return
            self._tell([submission], error)

    def _tell(self, group: list[Submission], error: FlywheelError | None) -> None:
        self._unended.hear(group, error)
        settle(group, error)

    def _commit(self, group: list[Submission]) -> FlywheelError | None:
        """With the driver itself: for rows that are ready, SQLAlchemy's own steps would cost more than the commit."""
        self._begun, connection, executed = time.monotonic(), self._connection, False
        try:
            connection = connection or self.database.raw_connection()
            rows = self._execute(connection.cursor(), [write for submission in group for write in submission.writes])
            executed = True
            connection.commit()
            self._keep(connection)
        except (SQLAlchemyError, self._driver_error, ValueError) as error:  # ValueError: what no database can encode
            self._give_up(connection)
            self._failing = True
            log.error("%d rows could not be written: %s", len(group), reason_of(error))
            kind = UnavailableError
            if in_trouble(error):  # a file rolls back what it could not commit; of a server we do not hear that
                kind = DoubtError if executed and self.database.dialect.name != "sqlite" else DatabaseTroubleError
            return kind("The record could not be written. Try again in a moment.")
        except Exception:  # whoever waits must hear of it, and the thread has to go on
            self._give_up(connection)
            log.exception("%d rows could not be written", len(group))
            return UnavailableError("The record could not be written: a defect inside Flywheel; its log says more.")
        finally:
            self._begun = None  # before anybody is told: who comes again at once is not refused
        if any(write.opens for submission in group for write in submission.writes):
            self._failing = False  # nothing else is sure to have written anything
        self.groups += 1
        self.rows += rows
        self.on_commit(rows)
        return None

    def _keep(self, connection: PoolProxiedConnection) -> None:
        """A file's connection stays ours; a server's goes back to the pool, which asks whether it still works."""
        if self.database.dialect.name == "sqlite":
            self._connection = connection
        else:
            connection.close()

    def _give_up(self, connection: PoolProxiedConnection | None) -> None:
        """Roll back, and keep the connection if that works: on a full disk none could be opened."""
        if connection is None:
            return
        try:
            connection.rollback()
            self._keep(connection)
        except (SQLAlchemyError, self._driver_error):
            self._connection = None
            connection.invalidate()

    def _execute(self, cursor: DBAPICursor, writes: list[Write]) -> int:
        """One call of the driver for all writes of a shape, since calls cost more than rows."""
        if self.database.dialect.name == "sqlite":
            cursor.execute("BEGIN IMMEDIATE")  # psycopg begins by itself
        shapes: dict[tuple[object, ...], list[Write]] = {}
        for write in writes:
            shapes.setdefault((not write.opens, id(write.statement), *write.values), []).append(write)
        for shape in sorted(shapes, key=lambda shape: bool(shape[0])):
            batch = shapes[shape]
            if shape not in self._prepared:
                self._prepared[shape] = Prepared(batch[0], self.database.dialect)
            prepared = self._prepared[shape]
            cursor.executemany(prepared.sql, [prepared.row(write.values) for write in batch])
        return len(writes)
