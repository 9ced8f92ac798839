"""AuditEntry: one row for each act of a person or of the scheduler, chained by hashes and never changed.

`hash` covers the row's own fields and the hash of the row before, so an edited, removed or moved row breaks the chain
at its position. Cutting off the end shows only against a head that was kept elsewhere. The database refuses UPDATE
and DELETE.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlmodel import Field, Session, SQLModel, col, select

from flywheel.database import JsonOf, UtcTime, now
from flywheel.errors import UserError

GENESIS = "0" * 64


class AuditEntry(SQLModel, table=True):
    __tablename__ = "audit_entry"

    position: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    tenant: str = "default"
    actor: str
    act: str
    """A verb of the domain: promote, roll_back, reject, judge, queue_run, open_experiment, publish, ingest, …"""
    subject: str
    """The id or name of what was acted on."""
    details: dict[str, Any] = Field(default_factory=dict, sa_type=JsonOf(dict[str, Any]))
    created_at: datetime = Field(sa_type=UtcTime)
    previous_hash: str
    hash: str = Field(unique=True)


def entry_hash(entry: AuditEntry) -> str:
    """SHA-256 over the canonical JSON of every field but `hash` itself."""
    fields = {
        "position": entry.position,
        "tenant": entry.tenant,
        "actor": entry.actor,
        "act": entry.act,
        "subject": entry.subject,
        "details": entry.details,
        "created_at": entry.created_at.isoformat(),
        "previous_hash": entry.previous_hash,
    }
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def record_act(
    session: Session, *, tenant: str, actor: str, act: str, subject: str, details: dict[str, Any] | None = None
) -> AuditEntry:
    """Append one entry, in the same transaction as the act itself."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(
            text("LOCK TABLE audit_entry IN EXCLUSIVE MODE")
        )  # one writer at a time: positions have no gaps
    head = audit_head(session)
    entry = AuditEntry(
        position=head.position + 1 if head else 1,
        tenant=tenant,
        actor=actor,
        act=act,
        subject=subject,
        details=details or {},
        created_at=now(),
        previous_hash=head.hash if head else GENESIS,
        hash="",
    )
    entry.hash = entry_hash(entry)
    session.add(entry)
    session.flush()
    return entry


def audit_head(session: Session) -> AuditEntry | None:
    """The newest entry: keep its hash elsewhere, and a cut-off end will show."""
    return session.exec(select(AuditEntry).order_by(col(AuditEntry.position).desc()).limit(1)).first()


def first_broken_position(session: Session, *, head: str | None = None) -> int | None:
    """The first position whose row was changed, removed or moved; None when the chain is whole.

    `head` was kept elsewhere: `POSITION:HASH` of the newest entry of that time, or its hash alone. When that entry is
    gone, the end was cut off: the position after the last is returned, or, where others have been put in its place,
    that of the head. Raises UserError when it is no head.
    """
    kept_at, kept_hash = _head(head) if head is not None else (None, None)
    previous, expected, seen_head = GENESIS, 1, kept_hash is None
    for entry in session.exec(select(AuditEntry).order_by(col(AuditEntry.position))):
        if entry.position != expected or entry.previous_hash != previous or entry_hash(entry) != entry.hash:
            return expected
        if entry.position == kept_at and entry.hash != kept_hash:
            return expected
        previous, expected, seen_head = entry.hash, expected + 1, seen_head or entry.hash == kept_hash
    return None if seen_head else expected


def _head(text: str) -> tuple[int | None, str]:
    found = re.fullmatch(r"(?:(\d{1,12}):)?([0-9a-f]{64})", text.strip())
    if found is None:
        raise UserError("A head is the 64 hexadecimal digits that `flywheel audit verify` prints, or POSITION:DIGITS.")
    return (int(found[1]) if found[1] else None), found[2]


def audit_entries(session: Session, *, tenant: str, limit: int = 100, before: int | None = None) -> list[AuditEntry]:
    """Newest first; `before` is the last position of the page above."""
    query = select(AuditEntry).where(AuditEntry.tenant == tenant)
    if before is not None:
        query = query.where(AuditEntry.position < before)
    return list(session.exec(query.order_by(col(AuditEntry.position).desc()).limit(limit)))
