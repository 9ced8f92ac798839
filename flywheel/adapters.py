"""Adapter: an immutable LoRA adapter whose name carries the hash of its files.

The record is what the database knows; the files live in FLYWHEEL_HOME/adapters/NAME, read-only, and are checked by
`flywheel/adapter_files.py` before any engine sees them. An adapter is never changed and never unpublished; what is
live is the last promotion (`flywheel/promotions.py`), not a flag here.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlmodel import Field, Session, SQLModel, col, select

from flywheel.database import JsonOf, UtcTime
from flywheel.errors import NotFoundError


class Adapter(SQLModel, table=True):
    __tablename__ = "adapter"

    name: str = Field(primary_key=True)
    """`identity-` or `lora-`, then the first twelve digits of `content_hash`."""
    content_hash: str = Field(unique=True)
    base_model_hash: str
    run_id: str | None = Field(default=None, foreign_key="training_run.id", index=True)
    """Null for the identity adapter, which no run made."""
    parent: str | None = Field(default=None, foreign_key="adapter.name")
    manifest: dict[str, Any] = Field(sa_type=JsonOf(dict[str, Any]))
    gate: dict[str, Any] | None = Field(default=None, sa_type=JsonOf(dict[str, Any]))
    """The gate's report; null for the identity adapter."""
    created_at: datetime = Field(sa_type=UtcTime)


def adapter(session: Session, name: str) -> Adapter:
    """One adapter. Raises NotFoundError."""
    found = session.get(Adapter, name)
    if found is None:
        raise NotFoundError(f"No adapter {name!r} is known here.")
    return found


def identity_adapter(session: Session, *, base_model_hash: str) -> Adapter | None:
    """The adapter that changes nothing (lora_B = 0), which answers where no trained adapter is live."""
    query = select(Adapter).where(Adapter.base_model_hash == base_model_hash, col(Adapter.run_id).is_(None))
    return session.exec(query.order_by(col(Adapter.created_at)).limit(1)).first()


def latest_adapters(session: Session, *, limit: int = 50) -> list[Adapter]:
    """Newest first."""
    return list(session.exec(select(Adapter).order_by(col(Adapter.created_at).desc()).limit(limit)))
