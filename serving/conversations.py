"""Which turn came before which in a conversation, for implicit signals.

Conversations have keys in no order, so an index of them would cost a row's commit as much as all else about the row. A
SQLite file has one serving, which therefore remembers the last turn of each conversation of late, and reads the latest
rows when it starts. A server's records are several servings' own: there the database has the index, and is asked
(`serving/signals.py`).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, select
from sqlalchemy import Engine as Database
from sqlmodel import col

from flywheel.database import now, reading
from flywheel.interactions import Interaction
from serving.protocol import LONGEST_NAME
from serving.turn import Turn

REMEMBERED = 50_000
"""Conversations; some 300 bytes each."""
LATELY = timedelta(hours=1)
"""What was closed within it is looked at once more after a start: nobody knows what of it had been."""


def known(row: type[Interaction]) -> ColumnElement[bool]:
    """Whether a turn has a user, or says which conversation it belongs to (`Turn.known`)."""
    named: ColumnElement[Any] = col(row.client_metadata)["conversation_id"].as_string()
    return col(row.user).is_not(None) | (named != "")


class Over(NamedTuple):
    """A turn that is closed."""

    completion_id: str
    left: bool
    """Its client went away before the end."""
    before: str | None
    """The turn before it in its conversation, where that is remembered."""

    @classmethod
    def of(cls, turn: Turn) -> Over:
        """What is noted once the turn's row is closed."""
        return cls(turn.completion_id, turn.outcome == "cancelled", turn.before)


class Conversations:
    """The last turn of each conversation of late. Not for several threads at once."""

    def __init__(self, *, most: int = REMEMBERED) -> None:
        self._most = most
        self._last: dict[tuple[str, str], str] = {}
        """By tenant and conversation, in the order of the turns."""

    def follow(self, tenant: str, conversation: str, completion_id: str) -> str | None:
        """Note this turn as the last of its conversation; the one before it."""
        if len(conversation) > LONGEST_NAME:
            return None
        key = tenant, conversation
        before = self._last.pop(key, None)
        self._last[key] = completion_id
        if len(self._last) > self._most:
            del self._last[next(iter(self._last))]
        return before

    def read(self, database: Database) -> list[Over]:
        """Follow the latest turns of the record, for a start; those that were closed lately. Blocks."""
        row = Interaction
        latest = (
            select(*map(col, (row.id, row.tenant, row.conversation, row.status, row.asked_at)), known(row))
            .order_by(col(row.id).desc())
            .limit(self._most)
        )
        with reading(database) as session:
            turns = session.execute(latest).all()
        found, lately = list[Over](), now() - LATELY
        for turn, tenant, conversation, status, asked_at, followed in reversed(turns):
            before = self.follow(tenant, conversation, turn) if followed else None
            if asked_at > lately:
                found.append(Over(turn, status == "cancelled", before))
        return found
