"""Webhooks: which acts of the audit are told to others, in what words, and how far each receiver has been told.

The audit is the outbox: an act is written there in the transaction that does it, so none is forgotten and none is told
that was rolled back. A receiver's row holds the position it has; a new receiver begins at the end. Sent are verdicts,
decisions and their reasons, never words of a chat. The posting is serving's (`serving/webhooks.py`).
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

from sqlmodel import Field, Session, SQLModel, col, select

from flywheel.audit import AuditEntry, audit_head
from flywheel.database import UtcTime

EVENTS = {
    "verdict": "experiment.verdict",
    "stop_experiment": "experiment.stopped",
    "approve": "promotion.approved",
    "promote": "promotion.promoted",
    "reject": "promotion.rejected",
    "roll_back": "promotion.rolled_back",
}
"""{act: what its event is called}."""
TOLD = (
    "experiment",
    "verdict",
    "sentence",
    "reason",
    "evidence_hash",
    "promotion",
    "previous",
    "missing",
    "prompt",
    "previous_prompt",
)
"""What of an act's details may leave the appliance."""


class WebhookReceiver(SQLModel, table=True):
    __tablename__ = "webhook_receiver"

    url_hash: str = Field(primary_key=True)
    """SHA-256 of its address, which may hold a token."""
    position: int
    """The last audit entry that it was told, or that is not for it."""
    failing_since: datetime | None = Field(default=None, sa_type=UtcTime)
    """When the entry after that was first refused."""


def url_hash(url: str) -> str:
    """What a receiver's row is found by."""
    return hashlib.sha256(url.encode()).hexdigest()


def new_receiver(session: Session, url: str) -> WebhookReceiver:
    """The row of an address that has none yet: it begins after everything that has happened so far."""
    head = audit_head(session)
    row = WebhookReceiver(url_hash=url_hash(url), position=head.position if head else 0)
    session.add(row)
    session.flush()
    return row


def entries_after(session: Session, position: int, *, limit: int) -> list[AuditEntry]:
    """Of every kind and tenant, oldest first."""
    query = select(AuditEntry).where(AuditEntry.position > position).order_by(col(AuditEntry.position))
    return list(session.exec(query.limit(limit)))


def event_of(entry: AuditEntry, *, tenant: str) -> dict[str, Any] | None:
    """What a receiver is told of an act; None when it is not for others, or another tenant's."""
    if entry.act not in EVENTS or entry.tenant != tenant:
        return None
    details = {name: entry.details[name] for name in TOLD if entry.details.get(name) is not None}
    data = {"subject": entry.subject, "actor": entry.actor, "audit_position": entry.position} | details
    return {"type": EVENTS[entry.act], "timestamp": entry.created_at.isoformat(), "data": data}
