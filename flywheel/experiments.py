"""Experiment: champion against challenger on live users of one alias, and the evidence that accumulates.

    running ─→ promoted | rejected   an operator's decision (flywheel/promotions.py)
            └→ stopped               the system's: a guardrail broke, or the sample ratio is off

At most one experiment runs per alias (a partial UNIQUE index). A user's arm is a pure function of the salt and the
user's name, so a restart never assigns anew. `evidence` is the newest look, written by serving
(`serving/evidence.py`), which is always safe to take: the test is valid at any time.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Index, text, update
from sqlmodel import Field, Session, SQLModel, col, select

from flywheel.audit import record_act
from flywheel.database import JsonOf, UtcTime, new_id, now
from flywheel.errors import ConflictError, NotFoundError
from flywheel.statistics.assignment import unit_interval

PLANNED_EFFECT = 0.05  # as in flywheel/statistics/sequential.py, which would bring numpy here

CHAMPION, CHALLENGER = "champion", "challenger"


class Experiment(SQLModel, table=True):
    __tablename__ = "experiment"
    __table_args__ = (
        CheckConstraint("state IN ('running', 'promoted', 'rejected', 'stopped')", name="state"),
        CheckConstraint("traffic_share > 0 AND traffic_share < 1", name="traffic_share"),
        CheckConstraint("planned_effect > 0 AND planned_effect < 1", name="planned_effect"),
        CheckConstraint("champion <> challenger", name="two_adapters"),
        Index(
            "one_running_per_alias",
            "alias",
            unique=True,
            sqlite_where=text("state = 'running'"),
            postgresql_where=text("state = 'running'"),
        ),
    )

    id: str = Field(primary_key=True)
    tenant: str = "default"
    alias: str
    champion: str = Field(foreign_key="adapter.name")
    challenger: str = Field(foreign_key="adapter.name", index=True)
    salt: str
    traffic_share: float = 0.5
    """The share of users who are answered by the challenger."""
    minimum_users: int = 100
    """Per arm: no verdict but INVALID or ROLLBACK before."""
    planned_effect: float = PLANNED_EFFECT
    """The improvement of the mean rating (0 to 1) that is to be found soonest; fixed when the experiment opens."""
    state: str = "running"
    evidence: dict[str, Any] | None = Field(default=None, sa_type=JsonOf(dict[str, Any]))
    evidence_hash: str | None = None
    created_at: datetime = Field(sa_type=UtcTime)
    ended_at: datetime | None = Field(default=None, sa_type=UtcTime)


def arm_of(experiment: Experiment, unit: str) -> str:
    """The arm of a user (or conversation): sticky, independent between salts; `traffic_share` of all challenge."""
    return CHALLENGER if unit_interval(experiment.salt, unit) < experiment.traffic_share else CHAMPION


def open_experiment(  # noqa: PLR0913  an experiment is made of these
    session: Session,
    *,
    tenant: str,
    alias: str,
    champion: str,
    challenger: str,
    traffic_share: float,
    minimum_users: int,
    actor: str,
    planned_effect: float = PLANNED_EFFECT,
) -> Experiment:
    """Start comparing. Raises ConflictError when an experiment already runs for this alias."""
    running = running_experiment(session, alias=alias)
    if running is not None:
        raise ConflictError(
            f"Experiment {running.id} already runs for {alias!r}: promote or reject its challenger first."
        )
    experiment_id = new_id("exp")
    experiment = Experiment(
        id=experiment_id,
        tenant=tenant,
        alias=alias,
        champion=champion,
        challenger=challenger,
        salt=experiment_id,
        traffic_share=traffic_share,
        minimum_users=minimum_users,
        planned_effect=planned_effect,
        created_at=now(),
    )
    session.add(experiment)
    session.flush()
    details = {"champion": champion, "challenger": challenger, "traffic_share": traffic_share}
    record_act(
        session,
        tenant=tenant,
        actor=actor,
        act="open_experiment",
        subject=experiment_id,
        details={"alias": alias} | details,
    )
    return experiment


def running_experiment(session: Session, *, alias: str) -> Experiment | None:
    """The experiment that splits this alias's users now, if one does."""
    return session.exec(select(Experiment).where(Experiment.alias == alias, Experiment.state == "running")).first()


def experiment(session: Session, experiment_id: str, *, tenant: str) -> Experiment:
    """One experiment. Raises NotFoundError, also when it belongs to another tenant."""
    found = session.get(Experiment, experiment_id)
    if found is None or found.tenant != tenant:
        raise NotFoundError(f"No experiment {experiment_id!r} is known here.")
    return found


def latest_experiments(session: Session, *, tenant: str, limit: int = 50) -> list[Experiment]:
    """Newest first."""
    query = select(Experiment).where(Experiment.tenant == tenant)
    return list(session.exec(query.order_by(col(Experiment.id).desc()).limit(limit)))


def evidence_digest(evidence: dict[str, Any]) -> str:
    """The hash that an operator's approval is bound to."""
    return hashlib.sha256(json.dumps(evidence, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def record_evidence(session: Session, experiment: Experiment, evidence: dict[str, Any]) -> None:
    """Store the newest look. Evidence of an experiment that has ended is never changed."""
    session.execute(
        update(Experiment)
        .where(col(Experiment.id) == experiment.id, col(Experiment.state) == "running")
        .values(evidence=evidence, evidence_hash=evidence_digest(evidence))
    )


def stop_experiment(session: Session, experiment: Experiment, *, state: str) -> None:
    """End it as promoted, rejected or stopped. Raises ConflictError when somebody else ended it first."""
    changed = session.execute(
        update(Experiment)
        .where(col(Experiment.id) == experiment.id, col(Experiment.state) == "running")
        .values(state=state, ended_at=now())
    )
    if changed.rowcount != 1:  # type: ignore[attr-defined]
        raise ConflictError(f"Experiment {experiment.id} has already ended.")
