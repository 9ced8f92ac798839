"""Implicit signals, found beside the requests: every few seconds the newly closed rows are read against their past.

Requests note the rows that they close (`appliance.closed`); the rows of the last hour are looked at once more after a
start. A row that is not to be seen closed yet, or whose predecessor is still being answered, waits for the next look. A
signal's key names the row that showed it, so finding it twice changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from datetime import timedelta

from sqlalchemy import JSON, Select, Text, cast, func, literal, or_
from sqlalchemy import Engine as Database
from sqlalchemy import select as select_columns
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from flywheel.database import now, reading, to_json
from flywheel.errors import FlywheelError
from flywheel.feedback import Feedback, new_feedback
from flywheel.implicit import SOURCE, Signal, about_earlier, about_itself
from flywheel.interactions import CLOSED, OPEN, Interaction
from flywheel.keys import ApiKey
from serving.appliance import Appliance
from serving.routes.feedback import SAY
from serving.statements import Write

LONGEST_ANSWER = timedelta(hours=1)
log = logging.getLogger(__name__)


async def watch_signals(appliance: Appliance) -> None:
    """Until cancelled. Trouble is logged once per look, and the next look tries again."""
    waiting: dict[str, float] | None = None
    while True:
        await asyncio.sleep(appliance.settings.serving.signal_seconds)
        try:
            if waiting is None:
                recent = await asyncio.to_thread(closed_lately, appliance.database, appliance.tenant)
                waiting = dict.fromkeys(recent, time.monotonic())
            while appliance.closed:
                waiting[appliance.closed.popleft()] = time.monotonic()
            rows, later = await asyncio.to_thread(find_signals, appliance.database, list(waiting))
            if rows:
                await appliance.writer.submit(*(Write(SAY, row.model_dump()) for row in rows))
            given_up = time.monotonic() - LONGEST_ANSWER.total_seconds()
            waiting = {one: since for one, since in waiting.items() if one in later and since > given_up}
        except (SQLAlchemyError, FlywheelError) as error:
            log.error("implicit signals wait for the next look: %s", str(error).splitlines()[0])


def closed_lately(database: Database, tenant: str) -> list[str]:
    """What was closed in the last hour: for a start, after which nobody knows which of it was looked at.

    Rows of `tenant` and of every tenant that has a key.
    """
    with reading(database) as session:
        tenants = {tenant, *session.exec(select(ApiKey.tenant).distinct())}
        query = select(Interaction.id).where(
            col(Interaction.tenant).in_(tenants),
            col(Interaction.asked_at) > now() - LONGEST_ANSWER,
            col(Interaction.status).in_(CLOSED),
        )
        return list(session.exec(query))


def find_signals(database: Database, completion_ids: list[str]) -> tuple[list[Feedback], set[str]]:
    """What these rows show and nobody has noted yet; and those of them that have to be looked at again."""
    with reading(database) as session:
        signals, later = _look_at(session, completion_ids)
        known = _known(session, {signal.completion_id for signal in signals})
        return [_feedback(*one) for one in signals.items() if _key(one[0]) not in known], later


def _look_at(session: Session, completion_ids: list[str]) -> tuple[dict[Signal, str], set[str]]:
    """{signal: its tenant}, and the rows that are not settled. Most rows have no past: they are not even read."""
    telling = _telling(session, completion_ids)
    again = {one for one, status, _ in telling if status not in CLOSED}
    before = {one: other for one, status, other in telling if other is not None and status in CLOSED}
    left = [one for one, status, _ in telling if status == "cancelled"]
    rows = {row.id: row for row in _rows(session, {*before, *before.values(), *left})}
    signals = {signal: rows[one].tenant for one in left for signal in about_itself(rows[one])}
    for one, other in before.items():
        signals |= dict.fromkeys(about_earlier(rows[other], rows[one]), rows[one].tenant)
        if rows[other].status not in CLOSED:
            again.add(one)
    return signals, again


def _telling(session: Session, completion_ids: list[str]) -> list[tuple[str, str, str | None]]:
    """Those of the rows that are open, were left, or have a past: id, status, and the turn before in its conversation.

    Strangers who ask the same first question are no conversation.
    """
    earlier = aliased(Interaction)
    known = or_(
        col(Interaction.user).is_not(None),
        col(Interaction.client_metadata)["conversation_id"].as_string().is_not(None),
    )
    before = (
        select_columns(func.max(col(earlier.id)))
        .where(
            known,
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
    telling = select_columns(rows).where(or_(rows.c.status.in_((OPEN, "cancelled")), rows.c.before.is_not(None)))
    return [(row[0], row[1], row[2]) for row in session.execute(telling)]


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


def _known(session: Session, completion_ids: set[str]) -> set[tuple[str, str, str | None]]:
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
