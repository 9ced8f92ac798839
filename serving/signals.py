"""Implicit signals, found beside the requests: every few seconds the newly closed rows are read against their past.

Requests note the rows that they close (`appliance.closed`), and which turn came before as far as that is remembered
(`serving/conversations.py`); the rows of the last hour are looked at once more after a start. A row that is not to be
seen closed yet, or whose predecessor is still being answered, waits for the next look. A signal's key names the row
that showed it, so finding it twice changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping

from sqlalchemy import JSON, Select, Text, cast, func, literal, or_
from sqlalchemy import Engine as Database
from sqlalchemy import select as select_columns
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from flywheel.database import now, reading, reason_of, to_json
from flywheel.errors import FlywheelError
from flywheel.feedback import Feedback, new_feedback
from flywheel.implicit import SOURCE, Signal, about_earlier, about_itself
from flywheel.interactions import CLOSED, OPEN, Interaction
from flywheel.keys import ApiKey
from serving.appliance import Appliance
from serving.conversations import LATELY, Over, known
from serving.records import several_servings
from serving.routes.feedback import SAY
from serving.statements import Write

log = logging.getLogger(__name__)


async def watch_signals(appliance: Appliance) -> None:
    """Until cancelled. Trouble is logged once per look, and the next look tries again."""
    waiting: dict[Over, float] | None = None
    while True:
        await asyncio.sleep(appliance.settings.serving.signal_seconds)
        try:
            if waiting is None:
                shared = several_servings(appliance.database)
                lately = await asyncio.to_thread(closed_lately, appliance.database, appliance.tenant) if shared else ()
                waiting = dict.fromkeys(lately, time.monotonic())
            while appliance.closed:
                waiting[appliance.closed.popleft()] = time.monotonic()
            rows, later = await asyncio.to_thread(find_signals, appliance.database, list(waiting))
            if rows:
                await appliance.writer.submit(*(Write(SAY, row.model_dump()) for row in rows))
            given_up = time.monotonic() - LATELY.total_seconds()
            waiting = {
                over: since for over, since in waiting.items() if over.completion_id in later and since > given_up
            }
        except (SQLAlchemyError, FlywheelError) as error:
            log.error("implicit signals wait for the next look: %s", reason_of(error))


def closed_lately(database: Database, tenant: str) -> list[Over]:
    """What was closed in the last hour: for a start, after which nobody knows which of it was looked at.

    Rows of `tenant` and of every tenant that has a key.
    """
    with reading(database) as session:
        tenants = {tenant, *session.exec(select(ApiKey.tenant).distinct())}
        query = select(Interaction.id, Interaction.status).where(
            col(Interaction.tenant).in_(tenants),
            col(Interaction.asked_at) > now() - LATELY,
            col(Interaction.status).in_(CLOSED),
        )
        return [Over(row, status == "cancelled", None) for row, status in session.exec(query)]


def find_signals(database: Database, closed: Iterable[Over]) -> tuple[list[Feedback], set[str]]:
    """What these rows show and nobody has noted yet; and those of them that have to be looked at again.

    Most rows have no past, and are not even read.
    """
    with reading(database) as session:
        if several_servings(database):
            turns = _with_their_past(session, [over.completion_id for over in closed])
        else:
            turns = {over.completion_id: over.before for over in closed if over.left or over.before is not None}
        signals, later = _look_at(session, turns)
        noted = _noted(session, {signal.completion_id for signal in signals})
        return [_feedback(*one) for one in signals.items() if _key(one[0]) not in noted], later


def _look_at(session: Session, turns: Mapping[str, str | None]) -> tuple[dict[Signal, str], set[str]]:
    """{signal: its tenant}, and the rows that are not settled. `turns` are {turn: the one before it}."""
    rows = {row.id: row for row in _rows(session, {*turns, *(one for one in turns.values() if one is not None)})}
    signals: dict[Signal, str] = {}
    again: set[str] = set()
    for row, earlier in ((rows.get(turn), rows.get(before or "")) for turn, before in turns.items()):
        if row is None:
            continue
        if row.status not in CLOSED or (earlier is not None and earlier.status not in CLOSED):
            again.add(row.id)
        if row.status in CLOSED:
            found = [*about_itself(row), *(about_earlier(earlier, row) if earlier is not None else ())]
            signals |= dict.fromkeys(found, row.tenant)
    return signals, again


def _with_their_past(session: Session, completion_ids: list[str]) -> dict[str, str | None]:
    """Those of the rows that are open, were left, or have a past: {turn: the one before it in its conversation}."""
    earlier = aliased(Interaction)
    before = (
        select_columns(func.max(col(earlier.id)))
        .where(
            known(Interaction),
            known(earlier),
            col(earlier.tenant) == Interaction.tenant,
            col(earlier.conversation) == Interaction.conversation,
            col(earlier.id) < Interaction.id,
        )
        .scalar_subquery()
    )
    rows = (
        select_columns(col(Interaction.id), col(Interaction.status), before.label("before"))
        .where(col(Interaction.id).in_(_each(session, completion_ids)))
        .subquery()
    )
    telling = or_(rows.c.status.in_((OPEN, "cancelled")), rows.c.before.is_not(None))
    return {row[0]: row[1] for row in session.execute(select_columns(rows.c.id, rows.c.before).where(telling))}


def _rows(session: Session, completion_ids: set[str]) -> Iterable[Interaction]:
    return session.exec(select(Interaction).where(col(Interaction.id).in_(_each(session, completion_ids))))


def _each(session: Session, completion_ids: Iterable[str]) -> Select[str]:
    """The ids as a query. One JSON text goes in: bound one by one they cost many times what is done with them."""
    listed = literal(to_json(list(completion_ids)), Text)
    sqlite = session.get_bind().dialect.name == "sqlite"
    each = func.json_each(listed) if sqlite else func.json_array_elements_text(cast(listed, JSON))
    return select_columns(each.table_valued("value").c.value)


def _key(signal: Signal) -> tuple[str, str, str]:
    return signal.completion_id, signal.name, signal.because


def _noted(session: Session, completion_ids: set[str]) -> set[tuple[str, str, str | None]]:
    query = select(Feedback.completion_id, Feedback.name, Feedback.key).where(
        col(Feedback.completion_id).in_(_each(session, completion_ids))
    )
    return {(completion_id, name, key) for completion_id, name, key in session.exec(query)}


def _feedback(signal: Signal, tenant: str) -> Feedback:
    row = new_feedback(
        tenant=tenant,
        completion_id=signal.completion_id,
        name=signal.name,
        value=signal.value,
        text=None,
        source=SOURCE,
        actor=None,
    )
    row.key = signal.because
    return row
