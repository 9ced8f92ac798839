"""TrainingRun: one turn of the trainer, from the request to an adapter, and the events it left behind.

The table is the queue. A worker claims the oldest queued run by a lease and renews it while it works; a run whose
lease has run out was left by a dead worker and is claimed again. Every change of a claimed run names its worker, so
that a worker that lost its lease can write no more.

    queued ─→ running ─→ succeeded   an adapter was published
                      ├→ refused     the gate said no; the report says why
                      └→ failed      an error; `error` says which
    queued | running ─→ cancelled
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import CheckConstraint, Index, Text, and_, or_, update
from sqlmodel import Field, Session, SQLModel, col, select

from flywheel.audit import record_act
from flywheel.database import JsonOf, UtcTime, new_id, now
from flywheel.errors import ConflictError, NotFoundError

LEASE_SECONDS = 60
ENDED = ("succeeded", "refused", "failed", "cancelled")


class TrainingRun(SQLModel, table=True):
    __tablename__ = "training_run"
    __table_args__ = (
        CheckConstraint("state IN ('queued', 'running', 'succeeded', 'refused', 'failed', 'cancelled')", name="state"),
        CheckConstraint("state <> 'succeeded' OR adapter IS NOT NULL", name="succeeded_has_adapter"),
        CheckConstraint("state <> 'running' OR leased_by IS NOT NULL", name="running_has_lease"),
        Index("ix_training_run_queue", "state", "id"),
    )

    id: str = Field(primary_key=True)
    tenant: str = "default"
    alias: str
    state: str = "queued"
    recipe: dict[str, Any] = Field(sa_type=JsonOf(dict[str, Any]))
    """The recipe as asked for; the resolved one stands in the adapter's manifest."""
    dataset: str | None = Field(default=None, foreign_key="dataset_version.name")
    parent: str | None = None
    """The adapter that training continued from; null when it started at the base model."""
    adapter: str | None = None
    stage: str | None = None
    """freeze, train, gate, publish: what the worker is doing now."""
    progress: dict[str, Any] = Field(default_factory=dict, sa_type=JsonOf(dict[str, Any]))
    """{"done": steps, "total": steps, "loss": …, …}: the newest line of the child process."""
    metrics: dict[str, Any] = Field(default_factory=dict, sa_type=JsonOf(dict[str, Any]))
    gate: dict[str, Any] | None = Field(default=None, sa_type=JsonOf(dict[str, Any]))
    error: str | None = Field(default=None, sa_type=Text)
    requested_by: str
    leased_by: str | None = None
    leased_until: datetime | None = Field(default=None, sa_type=UtcTime)
    created_at: datetime = Field(sa_type=UtcTime)
    started_at: datetime | None = Field(default=None, sa_type=UtcTime)
    ended_at: datetime | None = Field(default=None, sa_type=UtcTime)


class RunEvent(SQLModel, table=True):
    __tablename__ = "run_event"

    id: str = Field(primary_key=True)
    run_id: str = Field(foreign_key="training_run.id", ondelete="CASCADE", index=True)
    text: str = Field(sa_type=Text)
    created_at: datetime = Field(sa_type=UtcTime)


def queue_run(session: Session, *, tenant: str, alias: str, recipe: dict[str, Any], requested_by: str) -> TrainingRun:
    """Ask for a turn. The worker takes it from here."""
    run = TrainingRun(
        id=new_id("run"), tenant=tenant, alias=alias, recipe=recipe, requested_by=requested_by, created_at=now()
    )
    session.add(run)
    session.flush()
    record_act(session, tenant=tenant, actor=requested_by, act="queue_run", subject=run.id, details={"recipe": recipe})
    return run


def claim_run(session: Session, *, worker: str) -> TrainingRun | None:
    """The oldest run that waits or whose worker is gone, now leased to `worker`; None when there is nothing to do."""
    left_behind = and_(col(TrainingRun.state) == "running", col(TrainingRun.leased_until) < now())
    query = (
        select(TrainingRun)
        .where(or_(col(TrainingRun.state) == "queued", left_behind))
        .order_by(col(TrainingRun.id))
        .limit(1)
    )
    run = session.exec(query.with_for_update(skip_locked=True)).first()
    if run is None:
        return None
    run.state, run.leased_by, run.leased_until = "running", worker, now() + timedelta(seconds=LEASE_SECONDS)
    run.started_at = run.started_at or now()
    session.add(run)
    session.flush()
    return run


def update_run(session: Session, run_id: str, *, worker: str, **values: Any) -> None:
    """Write `values` and renew the lease. Raises ConflictError when the run is no longer this worker's."""
    changed = session.execute(
        update(TrainingRun)
        .where(col(TrainingRun.id) == run_id, col(TrainingRun.leased_by) == worker, col(TrainingRun.state) == "running")
        .values(leased_until=now() + timedelta(seconds=LEASE_SECONDS), **values)
    )
    if changed.rowcount != 1:  # type: ignore[attr-defined]
        raise ConflictError(f"Run {run_id} is no longer held by {worker}: it was cancelled, or its lease ran out.")


def release_run(session: Session, run_id: str, *, worker: str) -> None:
    """Let go of a run that is not finished, so that another worker may claim it at once."""
    session.execute(
        update(TrainingRun)
        .where(col(TrainingRun.id) == run_id, col(TrainingRun.leased_by) == worker, col(TrainingRun.state) == "running")
        .values(leased_until=now())
    )


def end_run(session: Session, run_id: str, *, worker: str, state: str, **values: Any) -> None:
    """Close a claimed run as succeeded, refused or failed."""
    update_run(session, run_id, worker=worker, state=state, ended_at=now(), stage=None, **values)


def cancel_run(session: Session, run: TrainingRun, *, actor: str) -> None:
    """Stop a run that has not ended; its worker notices at its next write. Raises ConflictError when it has ended."""
    changed = session.execute(
        update(TrainingRun)
        .where(col(TrainingRun.id) == run.id, col(TrainingRun.state).in_(("queued", "running")))
        .values(state="cancelled", ended_at=now())
    )
    if changed.rowcount != 1:  # type: ignore[attr-defined]
        raise ConflictError(f"Run {run.id} has already ended: {run.state}.")
    record_act(session, tenant=run.tenant, actor=actor, act="cancel_run", subject=run.id)


def add_event(session: Session, run_id: str, text: str) -> None:
    """One line of the run's own story."""
    session.add(RunEvent(id=new_id("ev"), run_id=run_id, text=text, created_at=now()))


def training_run(session: Session, run_id: str, *, tenant: str) -> TrainingRun:
    """One run. Raises NotFoundError, also when it belongs to another tenant."""
    found = session.get(TrainingRun, run_id)
    if found is None or found.tenant != tenant:
        raise NotFoundError(f"No training run {run_id!r} is known here.")
    return found


def latest_runs(session: Session, *, tenant: str, limit: int = 50) -> list[TrainingRun]:
    """Newest first."""
    query = select(TrainingRun).where(TrainingRun.tenant == tenant)
    return list(session.exec(query.order_by(col(TrainingRun.id).desc()).limit(limit)))


def run_events(session: Session, run_id: str) -> list[RunEvent]:
    """Oldest first."""
    return list(session.exec(select(RunEvent).where(RunEvent.run_id == run_id).order_by(col(RunEvent.id))))
