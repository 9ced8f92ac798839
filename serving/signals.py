"""Implicit signals, found beside the requests: every few seconds the newly closed rows are read against their past.

Each look overlaps the one before, since a row is visible a little after the moment it carries; rows that the look
before had settled are passed over. A signal's key names the row that showed it, so finding it twice changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta

from sqlalchemy import Engine as Database
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, col, select

from flywheel.database import now, reading
from flywheel.errors import FlywheelError
from flywheel.feedback import Feedback, new_feedback
from flywheel.implicit import SOURCE, Signal, about_earlier, about_itself
from flywheel.interactions import CLOSED, Interaction
from flywheel.keys import ApiKey
from serving.appliance import Appliance
from serving.routes.feedback import SAY
from serving.writer import Write

LONGEST_ANSWER = timedelta(hours=1)
OVERLAP = timedelta(seconds=30)
BATCH = 200
log = logging.getLogger(__name__)


async def watch_signals(appliance: Appliance) -> None:
    """Until cancelled. Trouble is logged once per look, and the next look tries again."""
    since, seen = now() - LONGEST_ANSWER, set[str]()
    while True:
        await asyncio.sleep(appliance.settings.serving.signal_seconds)
        looked = now()
        try:
            rows, read = await asyncio.to_thread(find_signals, appliance.database, appliance.tenant, since, seen)
            if rows:
                await appliance.writer.submit(*(Write(SAY, row.model_dump()) for row in rows))
            since, seen = looked - OVERLAP, read
        except (SQLAlchemyError, FlywheelError) as error:
            log.error("implicit signals wait for the next look: %s", str(error).splitlines()[0])


def find_signals(database: Database, tenant: str, since: datetime, seen: set[str]) -> tuple[list[Feedback], set[str]]:
    """What the rows closed after `since` show and nobody has noted yet, those in `seen` left out; and the settled rows.

    Rows of `tenant` and of every tenant that has a key.
    A row whose predecessor is still being answered is not settled: it says more about it once that is closed.
    """
    with reading(database) as session:
        tenants = {tenant, *session.exec(select(ApiKey.tenant).distinct())}
        query = select(Interaction.id).where(
            col(Interaction.tenant).in_(tenants),
            col(Interaction.asked_at) > since - LONGEST_ANSWER,
            col(Interaction.finished_at) > since,
        )
        closed = set(session.exec(query))
        found, settled = list[Feedback](), closed & seen
        for row in _rows(session, closed - seen):
            earlier = _before(session, row)
            signals = about_itself(row) + (about_earlier(earlier, row) if earlier is not None else [])
            found += [_feedback(signal, row.tenant) for signal in signals]
            if earlier is None or earlier.status in CLOSED:
                settled.add(row.id)
        known = _known(session, {row.completion_id for row in found})
    return [row for row in found if (row.completion_id, row.name, row.key) not in known], settled


def _rows(session: Session, completion_ids: set[str]) -> Iterator[Interaction]:
    """Many to a query: one each is what most of a look would cost."""
    waiting = sorted(completion_ids)
    for start in range(0, len(waiting), BATCH):
        yield from session.exec(select(Interaction).where(col(Interaction.id).in_(waiting[start : start + BATCH])))


def _before(session: Session, row: Interaction) -> Interaction | None:
    """The turn before it in its conversation."""
    if row.user is None and "conversation_id" not in row.client_metadata:
        return None  # strangers who ask the same first question are not one conversation
    query = select(Interaction).where(
        Interaction.tenant == row.tenant, Interaction.conversation == row.conversation, col(Interaction.id) < row.id
    )
    return session.exec(query.order_by(col(Interaction.id).desc()).limit(1)).first()


def _known(session: Session, completion_ids: set[str]) -> set[tuple[str, str, str | None]]:
    query = select(Feedback.completion_id, Feedback.name, Feedback.key).where(
        col(Feedback.completion_id).in_(completion_ids)
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
