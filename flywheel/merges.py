"""Merge: an operator's permission to serve the champion merged into the base weights, and how far that has come.

    asked ─→ written ⇄ serving        the worker writes the weights; serving says when merged engines answer
      └────────┴─→ failed             why stands in `trouble`; the adapter goes on answering

A permission is for one epoch: after the next promotion or rollback it means nothing. It rests while an experiment runs,
since merged weights carry no other arm. `engines_wanted` says which engines ought to run for that: those with adapters
are stopped only while merged ones answer, and merged ones only when serving has moved everybody back (`written`). So no
step of it leaves a moment in which nobody answers, whichever of the two processes dies in between. Not covered: the
death of a merged engine after those with adapters have stopped; it is missed until it is up again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import CheckConstraint, Text, update
from sqlmodel import Field, Session, SQLModel, col, select

from flywheel.adapters import Adapter
from flywheel.audit import record_act
from flywheel.database import UtcTime, new_id, now
from flywheel.errors import ConflictError, NotFoundError, UserError
from flywheel.experiments import running_experiments
from flywheel.leases import adapters_asked_for
from flywheel.promotions import live_promotion, require_name_and_reason
from flywheel.settings import Settings

ASKED, WRITTEN, SERVING, FAILED = "asked", "written", "serving", "failed"


class Merge(SQLModel, table=True):
    __tablename__ = "merge"
    __table_args__ = (CheckConstraint("state IN ('asked', 'written', 'serving', 'failed')", name="state"),)

    id: str = Field(primary_key=True)
    tenant: str = "default"
    alias: str
    adapter: str = Field(foreign_key="adapter.name")
    epoch: str = Field(foreign_key="promotion.id")
    """The promotion that made the adapter live: the permission ends with it."""
    state: str = ASKED
    trouble: str | None = Field(default=None, sa_type=Text)
    actor: str
    reason: str = Field(sa_type=Text)
    created_at: datetime = Field(sa_type=UtcTime)
    serving_since: datetime | None = Field(default=None, sa_type=UtcTime)
    """Without a break: null while an experiment or a rollback has called the adapters back."""
    withdrawn_at: datetime | None = Field(default=None, sa_type=UtcTime)


@dataclass(frozen=True)
class MergeStanding:
    """The newest merge of an alias, as serving and `flywheel up` need it."""

    id: str
    adapter: str
    state: str
    trouble: str | None
    applies: bool
    """Merged weights are to answer now: permitted, for what is live, and no experiment runs."""
    serving_since: datetime | None


@dataclass(frozen=True)
class EnginesWanted:
    """Which engines ought to run now."""

    adapters: bool = True
    """Those that hold adapters."""
    merged: str | None = None
    """The adapter whose merged weights others are to be started with."""


def merged_folder(settings: Settings, adapter: str) -> Path:
    """Where the base weights with this adapter merged into them are kept."""
    return settings.home.resolve() / "merged" / adapter


def allow_merge(session: Session, settings: Settings, *, tenant: str, actor: str, reason: str) -> Merge:
    """Permit that the champion is merged. Raises UserError, and ConflictError while it cannot be."""
    require_name_and_reason(actor, reason)
    alias, live = settings.serving.alias, live_promotion(session, alias=settings.serving.alias)
    shared = set(settings.engine.urls) & set(settings.engine.merged_urls)
    if shared or not settings.engine.merged_urls:
        raise UserError("engine.merged_urls names no address of its own, so no engine can be started beside the first.")
    if live is None or session.get_one(Adapter, live.adapter).run_id is None:
        raise ConflictError(f"No trained adapter is live for {alias!r}: the base model itself answers.")
    for running in running_experiments(session, alias=alias):
        raise ConflictError(f"Experiment {running.id} runs: promote or reject its challenger first.")
    newest = newest_merge(session, alias=alias)
    if newest is not None and newest.state == SERVING and newest.epoch != live.id:
        raise ConflictError(f"The merged {newest.adapter} still answers: wait until it has stopped.")
    if newest is not None and newest.epoch == live.id and newest.state != FAILED and newest.withdrawn_at is None:
        raise ConflictError(f"{newest.adapter} may be merged already; it is {newest.state}.")
    if newest is not None and newest.state == SERVING:  # withdrawn a moment ago: it goes on
        newest.withdrawn_at = None
        session.add(newest)
        return _acted(session, newest, "allow_merge", actor=actor, reason=reason)
    row = Merge(
        id=new_id("merge"),
        tenant=tenant,
        alias=alias,
        adapter=live.adapter,
        epoch=live.id,
        actor=actor,
        reason=reason,
        created_at=now(),
    )
    session.add(row)
    return _acted(session, row, "allow_merge", actor=actor, reason=reason)


def withdraw_merge(session: Session, *, alias: str, actor: str, reason: str) -> Merge:
    """Have the adapter served as an adapter again. Raises NotFoundError when nothing is merged."""
    require_name_and_reason(actor, reason)
    row = newest_merge(session, alias=alias)
    if row is None or row.withdrawn_at is not None:
        raise NotFoundError(f"Nothing is merged for {alias!r}.")
    row.withdrawn_at = now()
    session.add(row)
    return _acted(session, row, "withdraw_merge", actor=actor, reason=reason)


def _acted(session: Session, row: Merge, act: str, *, actor: str, reason: str) -> Merge:
    session.flush()
    details = {"merge": row.id, "reason": reason}
    record_act(session, tenant=row.tenant, actor=actor, act=act, subject=row.adapter, details=details)
    return row


def newest_merge(session: Session, *, alias: str) -> Merge | None:
    """The only one that can matter."""
    return session.exec(select(Merge).where(Merge.alias == alias).order_by(col(Merge.id).desc()).limit(1)).first()


def standing_merge(session: Session, *, alias: str) -> MergeStanding | None:
    """The newest merge, and whether it applies."""
    row = newest_merge(session, alias=alias)
    if row is None:
        return None
    live = live_promotion(session, alias=alias)
    permitted = row.withdrawn_at is None and row.state != FAILED and live is not None and live.id == row.epoch
    applies = permitted and not running_experiments(session, alias=alias)
    return MergeStanding(row.id, row.adapter, row.state, row.trouble, applies, row.serving_since)


def merge_to_write(session: Session, *, alias: str) -> MergeStanding | None:
    """The one whose weights the worker ought to write now."""
    merge = standing_merge(session, alias=alias)
    return merge if merge is not None and merge.applies and merge.state == ASKED else None


def note_serving(session: Session, merge_id: str, *, since: datetime | None) -> None:
    """Since when merged weights answer everybody."""
    chosen = col(Merge.id) == merge_id, col(Merge.state) == SERVING
    session.execute(update(Merge).where(*chosen).values(serving_since=since))


def move_merge(session: Session, merge_id: str, *, expected: str, state: str, trouble: str | None = None) -> bool:
    """One step of the states above; False when somebody else moved it first."""
    values = {"state": state, "trouble": trouble, "serving_since": now() if state == SERVING else None}
    moved = session.execute(
        update(Merge).where(col(Merge.id) == merge_id, col(Merge.state) == expected).values(**values)
    )
    return bool(moved.rowcount)  # type: ignore[attr-defined]


def engines_wanted(session: Session, settings: Settings) -> EnginesWanted:
    """For whoever starts and stops engines."""
    merge = standing_merge(session, alias=settings.serving.alias)
    if merge is None or (not merge.applies and merge.state != SERVING) or merge.state in (ASKED, FAILED):
        return EnginesWanted()
    needed = not merge.applies or settings.serving.holdout_share > 0 or bool(adapters_asked_for(session))
    stand_by = timedelta(seconds=settings.engine.stand_by_seconds)
    alone = not needed and merge.serving_since is not None and now() - merge.serving_since > stand_by
    return EnginesWanted(adapters=not alone, merged=merge.adapter)
