"""Promotion: the ledger of who serves. Append-only; the last `promote` or `roll_back` row of an alias names its live
adapter.

A promotion is refused unless the gate is green, the experiment's verdict is SHIP (or the operator overrides it with a
reason), and the operator's approval names the hash of exactly the evidence that stands in the database now.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Index, Text
from sqlmodel import Field, Session, SQLModel, col, select

from flywheel.adapters import Adapter
from flywheel.audit import record_act
from flywheel.database import JsonOf, UtcTime, new_id, now
from flywheel.errors import ConflictError, EvidenceError, UserError
from flywheel.experiments import Experiment, stop_experiment


class Promotion(SQLModel, table=True):
    __tablename__ = "promotion"
    __table_args__ = (
        CheckConstraint("kind IN ('promote', 'reject', 'roll_back')", name="kind"),
        Index("ix_promotion_alias", "alias", "id"),
    )

    id: str = Field(primary_key=True)
    """Time-ordered; the id of the row that made an adapter live is the alias's epoch."""
    tenant: str = "default"
    alias: str
    kind: str
    adapter: str = Field(foreign_key="adapter.name")
    previous: str = Field(foreign_key="adapter.name")
    """The adapter that was live before; after a `reject`, the one that stays live."""
    experiment_id: str | None = Field(default=None, foreign_key="experiment.id")
    actor: str
    reason: str = Field(sa_type=Text)
    evidence_hash: str | None = None
    evidence: dict[str, Any] | None = Field(default=None, sa_type=JsonOf(dict[str, Any]))
    created_at: datetime = Field(sa_type=UtcTime)


def live_promotion(session: Session, *, alias: str) -> Promotion | None:
    """The row that made the live adapter live; None while the identity adapter still serves."""
    query = select(Promotion).where(Promotion.alias == alias, col(Promotion.kind) != "reject")
    return session.exec(query.order_by(col(Promotion.id).desc()).limit(1)).first()


def promotions(session: Session, *, alias: str, limit: int = 50) -> list[Promotion]:
    """The ledger, newest first."""
    query = select(Promotion).where(Promotion.alias == alias)
    return list(session.exec(query.order_by(col(Promotion.id).desc()).limit(limit)))


def promote(
    session: Session,
    experiment: Experiment,
    *,
    live: Adapter,
    actor: str,
    reason: str,
    evidence_hash: str,
    override: bool = False,
) -> Promotion:
    """Make the challenger live. Raises EvidenceError (412) that lists everything that is missing."""
    challenger = session.get_one(Adapter, experiment.challenger)
    missing = _missing(
        experiment, challenger, live=live, actor=actor, reason=reason, evidence_hash=evidence_hash, override=override
    )
    if missing:
        raise EvidenceError(missing)
    stop_experiment(session, experiment, state="promoted")
    evidence = {"experiment": experiment.evidence, "gate": challenger.gate, "override": override}
    return _append(
        session,
        alias=experiment.alias,
        kind="promote",
        adapter=challenger.name,
        previous=live.name,
        experiment_id=experiment.id,
        actor=actor,
        reason=reason,
        evidence_hash=evidence_hash,
        evidence=evidence,
        tenant=experiment.tenant,
    )


def _missing(
    experiment: Experiment,
    challenger: Adapter,
    *,
    live: Adapter,
    actor: str,
    reason: str,
    evidence_hash: str,
    override: bool,
) -> list[str]:
    verdict = (experiment.evidence or {}).get("verdict")
    green = bool((challenger.gate or {}).get("passed"))
    facts = [
        (experiment.state == "running", f"the experiment is no longer running (it is {experiment.state})"),
        (
            experiment.champion == live.name,
            f"the experiment compared with {experiment.champion}, but {live.name} is live now",
        ),
        (green, "the offline gate is not green"),
        (
            verdict == "SHIP" or override,
            f"the experiment's verdict is {verdict or 'still missing'}, not SHIP (an override needs a reason)",
        ),
        (not override or bool(reason.strip()), "an override needs a reason"),
        (bool(actor.strip()), "an approval carries the operator's name"),
        (
            experiment.evidence_hash is not None and evidence_hash == experiment.evidence_hash,
            f"the approval is for evidence {evidence_hash[:12] or '(none)'}, but the evidence is now "
            f"{(experiment.evidence_hash or '(none)')[:12]}: look at it again",
        ),
    ]
    return [sentence for holds, sentence in facts if not holds]


def reject(session: Session, experiment: Experiment, *, live: Adapter, actor: str, reason: str) -> Promotion:
    """End the experiment without a change of what is live."""
    _require_name_and_reason(actor, reason)
    stop_experiment(session, experiment, state="rejected")
    return _append(
        session,
        alias=experiment.alias,
        kind="reject",
        adapter=experiment.challenger,
        previous=live.name,
        tenant=experiment.tenant,
        experiment_id=experiment.id,
        actor=actor,
        reason=reason,
        evidence_hash=experiment.evidence_hash,
        evidence=experiment.evidence,
    )


def roll_back(
    session: Session, *, tenant: str, alias: str, target: Adapter, live: Adapter, actor: str, reason: str
) -> Promotion:
    """Make an earlier adapter live again (the identity adapter, or any that was promoted before)."""
    _require_name_and_reason(actor, reason)
    if target.name == live.name:
        raise ConflictError(f"{target.name} is live already.")
    served = {row.previous for row in promotions(session, alias=alias)} | {
        row.adapter for row in promotions(session, alias=alias) if row.kind != "reject"
    }
    if target.name not in served:
        raise UserError(
            f"{target.name} was never live for {alias!r}, so it cannot be rolled back to: promote it instead."
        )
    return _append(
        session,
        alias=alias,
        kind="roll_back",
        adapter=target.name,
        previous=live.name,
        actor=actor,
        reason=reason,
        tenant=tenant,
    )


def _require_name_and_reason(actor: str, reason: str) -> None:
    if not actor.strip() or not reason.strip():
        raise UserError("This act carries the operator's name and a reason: one of them is empty.")


def _append(session: Session, *, tenant: str, kind: str, adapter: str, actor: str, **values: Any) -> Promotion:
    row = Promotion(
        id=new_id("promo"), tenant=tenant, kind=kind, adapter=adapter, actor=actor, created_at=now(), **values
    )
    session.add(row)
    details = {"promotion": row.id, "previous": row.previous, "reason": row.reason, "evidence_hash": row.evidence_hash}
    record_act(session, tenant=tenant, actor=actor, act=kind, subject=adapter, details=details)
    return row
