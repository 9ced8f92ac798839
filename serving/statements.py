"""Writes of the record, and how a driver takes them.

For rows that are ready, SQLAlchemy's own steps would cost more than the commit: it works out anew for each row what is
the same for all. So a statement is compiled once, and the driver is given plain values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Dialect, Executable, Insert
from sqlalchemy.types import TypeEngine

from flywheel.database import JsonOf, UtcTime, to_json

ROW, NEW = "completion_id", "new_"
"""What a write that ends a row calls the row, and what stands before a column's name in its statement, where SQLAlchemy
keeps the name alone for itself."""


class Write(NamedTuple):
    """One statement and its values. Statements are module-level constants, so that they are compiled once."""

    statement: Executable
    values: Mapping[str, Any]
    opens: bool = False
    """It makes a row that other writes of the same commit may be about: these come first."""


class Prepared:
    """A statement as the driver takes it."""

    def __init__(self, write: Write, dialect: Dialect) -> None:
        keys = list(write.values) if isinstance(write.statement, Insert) else None
        compiled = write.statement.compile(dialect=dialect, column_keys=keys)  # type: ignore[attr-defined]
        assert not compiled.insert_prefetch, "nobody computes defaults here: name every column that has one"
        self.sql = str(compiled)
        self._positional = bool(compiled.positiontup)
        self._names = list(compiled.positiontup or compiled.params)
        columns = {bind: bind.removeprefix(NEW) for bind in self._names}
        constants = {name: compiled.params[bind] for bind, name in columns.items() if name not in write.values}
        self._constants, self._pick = constants, itemgetter(*columns.values())
        conversions = [_conversion(compiled.binds[name].type, dialect) for name in self._names]
        self._conversions = [(place, to) for place, to in enumerate(conversions) if to is not None]

    def row(self, values: Mapping[str, Any]) -> Any:
        """The values as the driver takes them."""
        given = list(self._pick({**self._constants, **values} if self._constants else values))
        for place, to in self._conversions:
            if given[place] is not None:
                given[place] = to(given[place])
        return given if self._positional else dict(zip(self._names, given, strict=True))


def _conversion(kind: TypeEngine[Any], dialect: Dialect) -> Callable[[Any], Any] | None:
    """What makes a value that is not None one that the driver takes. What serving made itself is not checked again."""
    if dialect.name == "sqlite" and isinstance(kind, JsonOf):
        return to_json
    if dialect.name == "sqlite" and isinstance(kind, UtcTime):
        return _moment
    return kind.dialect_impl(dialect).bind_processor(dialect)


def _moment(value: datetime) -> str:
    """As SQLAlchemy writes it: in UTC, six digits behind the second, no zone. orjson writes it in a third of the time,
    save for a whole second, whose digits it leaves out."""
    if value.microsecond and value.tzinfo is UTC:
        return orjson.dumps(value)[1:27].decode().replace("T", " ")
    return value.astimezone(UTC).isoformat(" ", "microseconds")[:26]
