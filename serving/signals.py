"""Implicit signals, found beside the requests: every few seconds the newly closed rows are read against their past.

A signal's key names the row that showed it, so finding it twice (after a restart) changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import NamedTuple

from sqlalchemy import Engine as Database
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, col, select

from flywheel.database import now, reading
from flywheel.errors import FlywheelError
from flywheel.feedback import Feedback, new_feedback
from flywheel.implicit import SOURCE, Signal, about_earlier, about_itself
from flywheel.interactions import OPEN, Interaction
from serving.appliance import Appliance
from serving.routes.feedback import SAY
from serving.writer import Write

LOOK_BACK = timedelta(hours=1)
AT_ONCE = 500
log = logging.getLogger(__name__)


class Found(NamedTuple):
    """New feedback rows, and the id up to which every row has been read."""

    rows: list[Feedback]
    read_to: str


async def watch_signals(appliance: Appliance) -> None:
    """Until cancelled. Trouble is logged once per look, and the next look tries again."""
    read_to = ""
    while True:
        await asyncio.sleep(appliance.settings.serving.signal_seconds)
        try:
            found = await asyncio.to_thread(find_signals, appliance.database, read_to)
            if found.rows:
                await appliance.writer.submit(*(Write(SAY, row.model_dump()) for row in found.rows))
            read_to = found.read_to
        except (SQLAlchemyError, FlywheelError) as error:
            log.error("implicit signals wait for the next look: %s", str(error).splitlines()[0])


def find_signals(database: Database, read_to: str) -> Found:
    """What the rows after `read_to` show. Rows at or behind one that is still open wait."""
    with reading(database) as session:
        query = select(Interaction).where(col(Interaction.id) > read_to, col(Interaction.asked_at) > now() - LOOK_BACK)
        rows = list(session.exec(query.order_by(col(Interaction.id)).limit(AT_ONCE)))
        closed = _until_open(rows)
        signals = [signal for row in closed for signal in _signals_of(session, row)]
        known = _known(session, [signal.completion_id for signal in signals])
        tenants = {row.id: row.tenant for row in closed}
        fresh = [
            _feedback(signal, tenants[signal.because])
            for signal in signals
            if (signal.completion_id, signal.name, signal.because) not in known
        ]
    return Found(fresh, closed[-1].id if closed else read_to)


def _until_open(rows: list[Interaction]) -> list[Interaction]:
    for place, row in enumerate(rows):
        if row.status == OPEN:
            return rows[:place]
    return rows


def _signals_of(session: Session, row: Interaction) -> list[Signal]:
    query = select(Interaction).where(
        Interaction.tenant == row.tenant, Interaction.conversation == row.conversation, col(Interaction.id) < row.id
    )
    earlier = session.exec(query.order_by(col(Interaction.id).desc()).limit(1)).first()
    return about_itself(row) + (about_earlier(earlier, row) if earlier is not None else [])


def _known(session: Session, completion_ids: list[str]) -> set[tuple[str, str, str | None]]:
    query = select(Feedback.completion_id, Feedback.name, Feedback.key).where(
        col(Feedback.completion_id).in_(completion_ids), Feedback.source == SOURCE
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
