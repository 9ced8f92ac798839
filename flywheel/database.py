"""One database, two kinds: SQLite in WAL mode (default) or PostgreSQL. Sessions, column types, identifiers,
migrations.

Invariants: foreign keys are enforced; a commit is on disk when it returns (synchronous=FULL); deleted text is
overwritten (secure_delete); a SQLite session opened by `writing` takes the write lock at once, so it never fails
half-way as busy.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import uuid_utils
from alembic import command
from alembic.config import Config
from pydantic import BaseModel, TypeAdapter
from sqlalchemy import JSON, Connection, DateTime, Dialect, create_engine, event
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.types import TypeDecorator
from sqlmodel import Session

from flywheel.errors import DatabaseTroubleError, UserError

PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON", "cache_size=-32768")
PATIENCE = {
    "connect_timeout": "5",
    "tcp_user_timeout": "10000",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
}
"""With a server, unless its URL says otherwise: how long until it lets us in (seconds), until its machine has
acknowledged what we sent (milliseconds), and until a machine that says nothing is asked whether it is there (seconds).
Without them one whose network is gone is waited for for minutes, or hours."""
SQLITE_TROUBLE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
}
"""Other codes of an OperationalError blame the statement: no such table, malformed JSON."""
LIMITS_EXCEEDED = "54"
"""PostgreSQL's class of states that blame the statement, although psycopg calls them operational."""


class UtcTime(TypeDecorator[datetime]):
    """A moment. Naive values are refused; what is read back is always in UTC (SQLite drops the zone)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError("a time without a zone cannot be stored: use datetime.now(UTC)")
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class JsonOf(TypeDecorator[Any]):
    """A JSON column that holds a given Python type: checked on the way in, built again on the way out."""

    impl = JSON
    cache_ok = True

    def __init__(self, kind: Any) -> None:
        super().__init__(none_as_null=True)
        self.kind = kind
        self._adapter: TypeAdapter[Any] = TypeAdapter(kind)

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else self._adapter.dump_python(self._adapter.validate_python(value), mode="json")

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else self._adapter.validate_python(value)

    def coerce_compared_value(self, op: Any, value: Any) -> Any:
        return self.impl_instance.coerce_compared_value(op, value)


def to_json(value: Any) -> str:
    """JSON as it is stored."""
    try:
        return orjson.dumps(value, default=_plain).decode()
    except TypeError:  # a whole number of more than 64 bits, or half of a surrogate pair
        return json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} has no JSON")


def now() -> datetime:
    """This moment, in UTC."""
    return datetime.now(UTC)


def new_id(prefix: str) -> str:
    """A time-ordered identifier such as `run-0198f…` (UUIDv7, so that indexes grow at their end)."""
    return f"{prefix}-{uuid_utils.uuid7().hex}"


def open_database(url: str, *, checkpoints: bool = True) -> Engine:
    """Connect to `url`. `checkpoints=False` for every process but serving, which alone checkpoints the SQLite file."""
    parsed = _database_url(url)
    sqlite = parsed.get_backend_name() == "sqlite"
    arguments = {"timeout": 30} if sqlite else {name: PATIENCE[name] for name in PATIENCE.keys() - parsed.query.keys()}
    engine = create_engine(parsed, pool_pre_ping=not sqlite, connect_args=arguments, json_serializer=to_json)
    if sqlite:
        _prepare_sqlite(engine, parsed.database, checkpoints=checkpoints)
    return engine


def database_exists(url: str) -> bool:
    """Whether there is a SQLite file at `url`; of a server this is not asked."""
    parsed = _database_url(url)
    return parsed.get_backend_name() != "sqlite" or Path(parsed.database or "").is_file()


def _database_url(text: str) -> URL:
    try:
        url = make_url(text)
        driver = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}[url.get_backend_name()]
    except (ArgumentError, KeyError) as error:
        raise UserError(
            "database_url names no database that we can use. "
            "Write sqlite:////path/to/file or postgresql://user:password@host/name."
        ) from error
    return url.set(drivername=driver)


def _prepare_sqlite(engine: Engine, file: str | None, *, checkpoints: bool) -> None:
    if file and file != ":memory:":
        Path(file).parent.mkdir(parents=True, exist_ok=True)

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        if not checkpoints:
            connection.execute("PRAGMA wal_autocheckpoint=0")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("sqlite_immediate", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """A session for queries; nothing is committed. Raises DatabaseTroubleError."""
    with _trouble_told(), Session(engine, expire_on_commit=False) as session:
        yield session


@contextmanager
def writing(engine: Engine) -> Iterator[Session]:
    """A session whose work is committed at the end of the block, or rolled back whole when the block raises.

    Raises DatabaseTroubleError.
    """
    with (
        _trouble_told(),
        engine.connect().execution_options(sqlite_immediate=True) as connection,
        Session(connection, expire_on_commit=False) as session,
        session.begin(),
    ):
        yield session


@contextmanager
def _trouble_told() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        if not in_trouble(error):
            raise
        raise DatabaseTroubleError("The database cannot be used now. Try again in a moment.") from error


def in_trouble(error: Exception) -> bool:
    """Whether it says that the database takes or tells nothing now. SQLAlchemy's errors, or the driver's own."""
    driver = error.orig if isinstance(error, DBAPIError) else error
    kinds = {kind.__name__ for one in (error, driver) for kind in type(one).__mro__}  # PEP 249 names them
    if not kinds & {"OperationalError", "InterfaceError"}:
        return isinstance(error, PoolTimeoutError)
    code, state = getattr(driver, "sqlite_errorcode", None), getattr(driver, "sqlstate", None)
    blamed = code is not None and code & 0xFF not in SQLITE_TROUBLE  # the rest of the code are details
    return not (blamed or (state or "").startswith(LIMITS_EXCEEDED))


def reason_of(error: BaseException) -> str:
    """In one line, without the statement and its values. It may name the server: for logs and operators."""
    while isinstance(error, DatabaseTroubleError) and error.__cause__ is not None:
        error = error.__cause__
    return str(error.orig if isinstance(error, DBAPIError) else error).strip().splitlines()[0]


def alembic_config(engine: Engine) -> Config:
    """Alembic's settings without an ini file: our migrations folder, and the open engine in `attributes`."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["engine"] = engine
    return config


def migrate(engine: Engine) -> None:
    """Bring the database to the newest schema. Raises UserError when it cannot be reached."""
    try:
        command.upgrade(alembic_config(engine), "head")
    except OperationalError as error:
        reason = reason_of(error)
        raise UserError(
            f"The database {engine.url!r} cannot be used: {reason}. Check database_url and that it is running."
        ) from error
