"""Promotion: the ledger of who serves. Append-only; the last `promote` or `roll_back` row of an alias names its live
adapter and its prompt version: its live variant. A prompt belongs to no base model, so where another one was put in and
its identity adapter answers, it answers with the prompt that is live.

A promotion is refused unless the gate is green, the experiment's verdict is SHIP (or the operator overrides it with a
reason), and the operator's approval names the hash of exactly the evidence that stands in the database now. Where
`promotion.approvers` is 2, two people's approvals do, and `approve` keeps the first. A rollback is one person's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Text, UniqueConstraint, func
from sqlalchemy.exc import IntegrityError
from sqlmodel import Field, Session, SQLModel, col, select

from flywheel.adapters import Adapter, identity_adapter
from flywheel.approvals import (
    SHOWN,
    barred_from_approving,
    keep_approval,
    missing_for_promotion,
    missing_people,
    same_person,
    standing_approvals,
)
from flywheel.audit import record_act
from flywheel.database import JsonOf, UtcTime, new_id, now
from flywheel.errors import ConflictError, EvidenceError, UserError
from flywheel.experiments import Experiment, stop_all, stop_experiment
from flywheel.settings import PromotionSettings
from flywheel.tried import GATE_NOT_ASKED
from flywheel.variants import Variant

ONE_PERSON = PromotionSettings()


class Promotion(SQLModel, table=True):
    __tablename__ = "promotion"
    __table_args__ = (
        CheckConstraint("kind IN ('promote', 'reject', 'roll_back')", name="kind"),
        UniqueConstraint("alias", "position", name="one_row_per_position"),
    )

    id: str = Field(primary_key=True)
    """The id of the row that made an adapter live is the alias's epoch."""
    tenant: str = "default"
    alias: str
    position: int
    """Counted from 1 for each alias: the order of the ledger, whatever the clock does."""
    kind: str
    adapter: str = Field(foreign_key="adapter.name")
    previous: str = Field(foreign_key="adapter.name")
    """The adapter that was live before; after a `reject`, the one that stays live."""
    prompt: str | None = Field(default=None, foreign_key="prompt_version.version")
    previous_prompt: str | None = Field(default=None, foreign_key="prompt_version.version")
    """The prompt versions of the two; null: the wording that Flywheel ships."""
    experiment_id: str | None = Field(default=None, foreign_key="experiment.id")
    actor: str
    reason: str = Field(sa_type=Text)
    evidence_hash: str | None = None
    evidence: dict[str, Any] | None = Field(default=None, sa_type=JsonOf(dict[str, Any]))
    created_at: datetime = Field(sa_type=UtcTime)


def live_promotion(session: Session, *, alias: str, at: datetime | None = None) -> Promotion | None:
    """The row that made the live adapter live, now or `at` a moment; None while the identity adapter still serves."""
    query = select(Promotion).where(Promotion.alias == alias, col(Promotion.kind) != "reject")
    if at is not None:
        query = query.where(col(Promotion.created_at) <= at)
    return session.exec(query.order_by(col(Promotion.position).desc()).limit(1)).first()


def live_adapter(session: Session, *, alias: str, base_model_hash: str) -> Adapter | None:
    """Who serves an alias: the adapter of its last promotion, or the identity adapter while none was made for this base
    model (nothing promoted yet, or the base model was exchanged since). None before serving has published that one.
    """
    row = live_promotion(session, alias=alias)
    promoted = session.get_one(Adapter, row.adapter) if row else None
    if promoted is not None and promoted.base_model_hash == base_model_hash:
        return promoted
    return identity_adapter(session, base_model_hash=base_model_hash)


def live_prompt(session: Session, *, alias: str) -> str | None:
    """The prompt version that an alias is answered with; None: the shipped one."""
    row = live_promotion(session, alias=alias)
    return row.prompt if row else None


def promotions(session: Session, *, alias: str, limit: int = 50, at: datetime | None = None) -> list[Promotion]:
    """The ledger, newest first; with `at`, as it stood then."""
    query = select(Promotion).where(Promotion.alias == alias)
    if at is not None:
        query = query.where(col(Promotion.created_at) <= at)
    return list(session.exec(query.order_by(col(Promotion.position).desc()).limit(limit)))


@dataclass(frozen=True)
class Approval:
    """An operator's yes, bound to the evidence they looked at."""

    actor: str
    reason: str
    evidence_hash: str
    override: bool = False
    """Promote although the verdict is not SHIP; needs a reason."""


def approve(
    session: Session,
    experiment: Experiment,
    *,
    live: Adapter,
    approval: Approval,
    not_ready: Sequence[str] = (),
    rules: PromotionSettings = ONE_PERSON,
) -> Promotion | None:
    """Keep an approval and, when it is the last that is needed, make the challenger live; None while others are.

    Raises EvidenceError (412) that lists everything that is missing beside other people's approvals.
    """
    session.refresh(experiment, with_for_update=True)  # of two who approve at once, one sees the other's
    _require(_missing(session, experiment, live=live, approval=approval, rules=rules) + list(not_ready))
    given = [row.actor for row in standing_approvals(session, experiment)]
    missing = missing_people([*given, approval.actor], rules)
    if not any(same_person(approval.actor, actor) for actor in given):
        keep_approval(session, experiment, missing=missing, **asdict(approval))
    if missing:
        return None
    return promote(session, experiment, live=live, approval=approval, not_ready=not_ready, rules=rules)


def promote(
    session: Session,
    experiment: Experiment,
    *,
    live: Adapter,
    approval: Approval,
    not_ready: Sequence[str] = (),
    rules: PromotionSettings = ONE_PERSON,
) -> Promotion:
    """Make the challenger live. `not_ready` says, a sentence each, which engines cannot serve it yet.

    Raises EvidenceError (412) that lists everything that is missing.
    """
    challenger = session.get_one(Adapter, experiment.challenger)
    kept = standing_approvals(session, experiment)
    people = missing_people([*(row.actor for row in kept), approval.actor], rules)
    _require([*_missing(session, experiment, live=live, approval=approval, rules=rules), *people, *not_ready])
    stop_experiment(session, experiment, state="promoted")
    reason = f"{experiment.challenger_variant} was promoted: {approval.reason}"
    stop_all(session, alias=experiment.alias, actor=approval.actor, reason=reason)
    return _append(
        session,
        alias=experiment.alias,
        kind="promote",
        target=experiment.challenger_variant,
        previous=experiment.champion_variant,
        experiment_id=experiment.id,
        actor=approval.actor,
        reason=approval.reason,
        evidence_hash=approval.evidence_hash,
        evidence={
            "experiment": experiment.evidence,
            "gate": challenger.gate,
            "gate_note": GATE_NOT_ASKED if experiment.challenger == live.name else None,
            "override": approval.override,
            "approvals": [row.model_dump(include=SHOWN) for row in kept],
        },
        tenant=experiment.tenant,
    )


def _require(missing: list[str]) -> None:
    if missing:
        raise EvidenceError(missing)


def _missing(
    session: Session, experiment: Experiment, *, live: Adapter, approval: Approval, rules: PromotionSettings
) -> list[str]:
    challenger = session.get_one(Adapter, experiment.challenger)
    serves = Variant(live.name, live_prompt(session, alias=experiment.alias))
    return [
        *missing_for_promotion(experiment, challenger, live=serves, approval=approval),
        *barred_from_approving(session, experiment, approval.actor, rules),
    ]


def reject(session: Session, experiment: Experiment, *, live: Adapter, actor: str, reason: str) -> Promotion:
    """End the experiment without a change of what is live."""
    require_name_and_reason(actor, reason)
    stop_experiment(session, experiment, state="rejected")
    return _append(
        session,
        alias=experiment.alias,
        kind="reject",
        target=experiment.challenger_variant,
        previous=Variant(live.name, live_prompt(session, alias=experiment.alias)),
        tenant=experiment.tenant,
        experiment_id=experiment.id,
        actor=actor,
        reason=reason,
        evidence_hash=experiment.evidence_hash,
        evidence=experiment.evidence,
    )


def earlier_variants(session: Session, *, alias: str) -> list[Variant]:
    """Every variant that was ever live for an alias, the one that was so last first: that of now, where one is."""
    moves = select(Promotion).where(Promotion.alias == alias, col(Promotion.kind) != "reject")
    rows = session.exec(moves.order_by(col(Promotion.position).desc()))
    pairs = [pair for row in rows for pair in ((row.adapter, row.prompt), (row.previous, row.previous_prompt))]
    return [Variant(*pair) for pair in dict.fromkeys(pairs)]


def roll_back(
    session: Session, *, tenant: str, alias: str, target: Variant, live: Adapter, actor: str, reason: str
) -> Promotion:
    """Make an earlier variant live again: an adapter (the identity adapter, or any that was promoted) and a prompt that
    were live before, together or apart.

    Experiments that run for the alias compare with a variant that is no longer live: they are stopped.
    """
    require_name_and_reason(actor, reason)
    serves = Variant(live.name, live_prompt(session, alias=alias))
    if target == serves:
        raise ConflictError(f"{target} is live already.")
    earlier = earlier_variants(session, alias=alias)
    for part, known in (
        (target.adapter, {live.name, *(one.adapter for one in earlier)}),
        (target.prompt, {None, *(one.prompt for one in earlier)}),
    ):
        if part not in known:
            raise UserError(f"{part} was never live for {alias!r}, so it cannot be rolled back to: promote it instead.")
    if not _one_base(session, target.adapter, live.name):
        raise UserError(f"{target.adapter} was trained on another base model than the one that is served.")
    stop_all(session, alias=alias, actor=actor, reason=f"rolled back to {target}: {reason}")
    return _append(
        session,
        alias=alias,
        kind="roll_back",
        target=target,
        previous=serves,
        actor=actor,
        reason=reason,
        tenant=tenant,
    )


def require_name_and_reason(actor: str, reason: str) -> None:
    """Raises UserError when one is empty."""
    if not actor.strip() or not reason.strip():
        raise UserError("This act carries the operator's name and a reason: one of them is empty.")


def _one_base(session: Session, *adapters: str) -> bool:
    """Whether they were made for one base model; where it was exchanged, the ledger's last row serves nobody."""
    return len({session.get_one(Adapter, name).base_model_hash for name in adapters}) == 1


def _append(
    session: Session, *, alias: str, kind: str, target: Variant, previous: Variant, actor: str, **values: Any
) -> Promotion:
    last = session.exec(select(func.max(Promotion.position)).where(Promotion.alias == alias)).one() or 0
    # Whoever commits before this line is seen by the next; whoever commits after it takes our position.
    current = live_promotion(session, alias=alias)
    comparable = current is not None and _one_base(session, current.adapter, previous.adapter)
    if current is not None and comparable and Variant(current.adapter, current.prompt) != previous:
        raise ConflictError(f"Somebody else has just decided about {alias!r}: look again at what is live.")
    row = Promotion(
        id=new_id("promo"),
        alias=alias,
        position=last + 1,
        kind=kind,
        adapter=target.adapter,
        prompt=target.prompt,
        previous=previous.adapter,
        previous_prompt=previous.prompt,
        actor=actor,
        created_at=now(),
        **values,
    )
    session.add(row)
    try:
        session.flush()
    except IntegrityError as error:
        raise ConflictError(f"Somebody else has just decided about {alias!r}: look again at what is live.") from error
    told = {"previous", "prompt", "previous_prompt", "reason", "evidence_hash"}
    details = {"promotion": row.id, **row.model_dump(include=told)}
    record_act(session, tenant=row.tenant, actor=actor, act=kind, subject=row.adapter, details=details)
    return row
