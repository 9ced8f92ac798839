"""The one thread that writes interactions and feedback, many rows to a commit.

Invariants: an awaited submission is committed (and so on disk: synchronous=FULL) when the await returns; within a
commit the rows that others are about come first, and writes of one statement keep the order they came in; a submission
that fails does not take its neighbours with it. The group is whatever waits while the last commit was on its way, so
it grows with the load and costs a lonely row nothing. Rows that still wait when the process dies are lost; nobody was
told that they were kept.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import Dialect, Engine, Executable
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.types import TypeEngine

from flywheel.database import JsonOf, to_json
from flywheel.errors import FlywheelError, UnavailableError

GROUP_LIMIT = 256
log = logging.getLogger(__name__)


class Write(NamedTuple):
    """One statement and its values. Statements are module-level constants, so that they are compiled once."""

    statement: Executable
    values: Mapping[str, Any]
    opens: bool = False
    """It makes a row that other writes of the same commit may be about: these come first."""


class Submission(NamedTuple):
    """Writes that are kept together or not at all."""

    writes: Sequence[Write]
    future: asyncio.Future[None]
    loop: asyncio.AbstractEventLoop


class RecordWriter:
    """Holds the thread and what waits for it. With `limit` submissions waiting, new requests are refused."""

    def __init__(self, database: Engine, *, limit: int) -> None:
        self.database = database
        self.limit = limit
        self.groups = 0
        self.rows = 0
        self.on_commit: Callable[[int], None] = lambda rows: None
        """Told of each commit's rows, in the writer's thread."""
        self._driver_error: type[Exception] = database.dialect.loaded_dbapi.Error
        self._prepared: dict[tuple[object, ...], Prepared] = {}
        self._coming: deque[Submission] = deque()
        self._bell: queue.SimpleQueue[bool] = queue.SimpleQueue()
        """True: something came. False: nothing more will."""
        self._rung = False
        self._thread = threading.Thread(target=self._run, name="record-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Write what waits, then end. Blocks."""
        self._bell.put(False)
        self._thread.join()

    @property
    def waiting(self) -> int:
        return len(self._coming)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, *writes: Write, closing: bool = False) -> asyncio.Future[None]:
        """Queue `writes` as one; the future resolves once they are committed. Call it on the event loop.

        Raises UnavailableError at once when too many wait, unless they close a row whose answer is already under way.
        """
        if not closing and (self.waiting >= self.limit or not self._thread.is_alive()):
            raise UnavailableError("The record is behind: too many rows wait for the disk. Try again in a moment.")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._coming.append(Submission(writes, future, loop))
        if not self._rung:  # once for all that comes in this turn of the event loop
            self._rung = True
            loop.call_soon(self._bell.put, True)
        return future

    def _run(self) -> None:
        open_ = True
        while open_:
            open_ = self._bell.get()
            self._rung = False  # before they are taken: what comes from now on rings again
            while self._coming:
                self._write_group([self._coming.popleft() for _ in range(min(GROUP_LIMIT, len(self._coming)))])

    def _write_group(self, group: list[Submission]) -> None:
        error = self._commit(group)
        if error is None or len(group) == 1:
            _settle(group, error)
            return
        for submission in group:  # somebody in it is at fault: each alone, so that only that one fails
            _settle([submission], self._commit([submission]))

    def _commit(self, group: list[Submission]) -> FlywheelError | None:
        """With the driver itself: for rows that are ready, SQLAlchemy's own steps would cost more than the commit."""
        connection = None
        try:
            connection = self.database.raw_connection()
            rows = self._execute(connection.cursor(), [write for submission in group for write in submission.writes])
            connection.commit()
            connection.close()
        except (SQLAlchemyError, self._driver_error, ValueError) as error:  # ValueError: what no database can encode
            self._give_up(connection)
            reason = str(error.orig if isinstance(error, DBAPIError) else error).strip().splitlines()[0]
            log.error("%d rows could not be written: %s", len(group), reason)
            return UnavailableError(f"The record could not be written ({reason}). Try again in a moment.")
        except Exception:  # whoever waits must hear of it, and the thread has to go on
            self._give_up(connection)
            log.exception("%d rows could not be written", len(group))
            return UnavailableError("The record could not be written: a defect inside Flywheel; its log says more.")
        self.groups += 1
        self.rows += rows
        self.on_commit(rows)
        return None

    def _give_up(self, connection: PoolProxiedConnection | None) -> None:
        """Roll back, and keep the connection if that works: on a full disk no new one could be opened."""
        if connection is None:
            return
        try:
            connection.rollback()
            connection.close()
        except (SQLAlchemyError, self._driver_error):
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


class Prepared:
    """A statement as the driver takes it. SQLAlchemy would work out anew for every row what is the same for all."""

    def __init__(self, write: Write, dialect: Dialect) -> None:
        compiled = write.statement.compile(dialect=dialect, column_keys=list(write.values))  # type: ignore[attr-defined]
        assert not compiled.insert_prefetch, "nobody computes defaults here: name every column that has one"
        self.sql = str(compiled)
        self._positional = bool(compiled.positiontup)
        self._constants = {name: value for name, value in compiled.params.items() if name not in write.values}
        binds = ((name, compiled.binds[name]) for name in compiled.positiontup or compiled.params)
        self._columns = [(name, _conversion(bind.type, dialect)) for name, bind in binds]

    def row(self, values: Mapping[str, Any]) -> Any:
        """The values as the driver takes them."""
        given = {**self._constants, **values} if self._constants else values
        if self._positional:
            return tuple([given[name] if to is None else to(given[name]) for name, to in self._columns])
        return {name: given[name] if to is None else to(given[name]) for name, to in self._columns}


def _conversion(kind: TypeEngine[Any], dialect: Dialect) -> Callable[[Any], Any] | None:
    """What makes a value one that the driver takes. JSON that serving made itself is not checked once more."""
    if isinstance(kind, JsonOf) and dialect.name == "sqlite":
        return _json
    return kind.dialect_impl(dialect).bind_processor(dialect)


def _json(value: Any) -> str | None:
    return None if value is None else to_json(value)


def _settle(group: list[Submission], error: FlywheelError | None) -> None:
    """Tell the waiting coroutines, one wake-up for each event loop."""
    for loop, submissions in groupby(group, key=lambda submission: submission.loop):
        futures = [submission.future for submission in submissions]
        if not loop.is_closed():
            loop.call_soon_threadsafe(_resolve, futures, error)


def _resolve(futures: list[asyncio.Future[None]], error: FlywheelError | None) -> None:
    for future in futures:
        if future.done():  # the request was cancelled while its row was on the way; the row stands
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
