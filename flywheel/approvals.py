"""GivenApproval: one operator's yes to one experiment, bound to the hash of the evidence they looked at. Append-only.

A promotion needs the approvals of `promotion.approvers` people for exactly the evidence that stands now; those for
other evidence do not count. An actor is `name`, `key's name`, or `name (key's name)`: two who share either word count
as one person, so nobody approves twice under a key that several hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, UniqueConstraint
from sqlmodel import Field, Session, SQLModel, col, select

from flywheel.adapters import Adapter
from flywheel.audit import AuditEntry, record_act
from flywheel.database import UtcTime, new_id, now
from flywheel.experiments import Experiment
from flywheel.prompt_versions import PromptVersion
from flywheel.runs import TrainingRun
from flywheel.settings import PromotionSettings
from flywheel.variants import Variant

if TYPE_CHECKING:
    from flywheel.promotions import Approval

SHARED_KEY = re.compile(r"(?P<name>.*) \((?P<key>[^()]*)\)", re.DOTALL)
SHOWN = {"actor", "reason", "override", "evidence_hash", "created_at"}


class GivenApproval(SQLModel, table=True):
    __tablename__ = "approval"
    __table_args__ = (
        UniqueConstraint("experiment_id", "evidence_hash", "actor", name="one_approval_per_person"),
    )  # fmt: skip

    id: str = Field(primary_key=True)
    tenant: str = "default"
    experiment_id: str = Field(foreign_key="experiment.id")
    actor: str
    reason: str = Field(sa_type=Text)
    evidence_hash: str
    override: bool = False
    """Given although the verdict was not SHIP."""
    created_at: datetime = Field(sa_type=UtcTime)


def same_person(one: str, other: str) -> bool:
    """Whether two actors may be one person: a name or a key that both carry."""
    return not _names(one).isdisjoint(_names(other))


def _names(actor: str) -> set[str]:
    found = SHARED_KEY.fullmatch(actor.strip())
    return {name.strip().casefold() for name in (found.groups() if found else (actor,))}


def keep_approval(session: Session, experiment: Experiment, *, missing: list[str], **given: Any) -> None:
    """Store an approval (actor, reason, evidence_hash, override). Audited when it waits for another person's: the one
    that makes an adapter live is audited as that.
    """
    row = GivenApproval(
        id=new_id("appr"), tenant=experiment.tenant, experiment_id=experiment.id, created_at=now(), **given
    )
    session.add(row)
    session.flush()
    if not missing:
        return
    record_act(
        session,
        tenant=row.tenant,
        actor=row.actor,
        act="approve",
        subject=experiment.challenger,
        details=row.model_dump(include={"reason", "override", "evidence_hash"})
        | {
            "prompt": experiment.challenger_prompt,
            "experiment": experiment.id,
            "approval": row.id,
            "missing": "; ".join(missing),
        },
    )


def standing_approvals(session: Session, experiment: Experiment) -> list[GivenApproval]:
    """Those for the evidence as it is now, oldest first."""
    query = select(GivenApproval).where(
        GivenApproval.experiment_id == experiment.id, GivenApproval.evidence_hash == experiment.evidence_hash
    )
    return list(session.exec(query.order_by(col(GivenApproval.id))))


def missing_people(approved_by: Iterable[str], rules: PromotionSettings) -> list[str]:
    """Who is still needed, as a sentence; empty when enough people have approved."""
    people: list[str] = []
    for actor in approved_by:
        if not any(same_person(actor, known) for known in people):
            people.append(actor)
    if len(people) >= rules.approvers:
        return []
    others = f"somebody else than {' and '.join(people)}" if people else "an operator"
    return [f"{rules.approvers} people approve a promotion here, and {len(people)} did: {others} is needed"]


def missing_for_promotion(
    experiment: Experiment, challenger: Adapter, *, live: Variant, approval: Approval
) -> list[str]:
    """What the records lack for this promotion, one sentence each; empty when nothing is missing.

    The gate is asked about adapters that are not live: of a prompt alone it knows nothing.
    """
    verdict = (experiment.evidence or {}).get("verdict")
    current = experiment.evidence_hash or ""
    facts = [
        (experiment.state == "running", f"the experiment is no longer running (it is {experiment.state})"),
        (
            experiment.champion_variant == live,
            f"the experiment compared with {experiment.champion_variant}, but {live} is live now",
        ),
        (
            challenger.name == live.adapter or bool((challenger.gate or {}).get("passed")),
            "the offline gate is not green",
        ),
        (
            verdict == "SHIP" or approval.override,
            f"the experiment's verdict is {verdict or 'still missing'}, not SHIP (an override needs a reason)",
        ),
        (not approval.override or bool(approval.reason.strip()), "an override needs a reason"),
        (bool(approval.actor.strip()), "an approval carries the operator's name"),
        (
            current != "" and approval.evidence_hash == current,
            f"the approval is for evidence {approval.evidence_hash[:12] or '(none)'}, but the evidence is now "
            f"{current[:12] or '(none)'}: look at it again",
        ),
    ]
    return [sentence for holds, sentence in facts if not holds]


def barred_from_approving(session: Session, experiment: Experiment, actor: str, rules: PromotionSettings) -> list[str]:
    """Why this actor's approval cannot count, as a sentence: they made what is to be approved."""
    if rules.trainer_may_approve:
        return []
    champion, challenger = experiment.champion_variant, experiment.challenger_variant
    run_id = session.get_one(Adapter, challenger.adapter).run_id if challenger.adapter != champion.adapter else None
    run = session.get(TrainingRun, run_id) if run_id else None
    opened = select(AuditEntry.actor).where(AuditEntry.act == "open_experiment", AuditEntry.subject == experiment.id)
    did = [(run.requested_by, f"asked for run {run.id}")] if run else []
    if challenger.prompt is not None and challenger.prompt != champion.prompt:
        did += [(session.get_one(PromptVersion, challenger.prompt).actor, f"wrote prompt {challenger.prompt}")]
    did += [(who, "opened the experiment") for who in session.exec(opened)]
    mine = [what for who, what in did if same_person(actor, who)]
    return [f"{actor} {mine[0]}, so somebody else has to approve"] if mine else []


def approvals_view(session: Session, experiment: Experiment, rules: PromotionSettings) -> dict[str, Any]:
    """For people: how many are needed, who approved the evidence as it is now, and who is still missing."""
    given = standing_approvals(session, experiment)
    return {
        "needed": rules.approvers,
        "given": [row.model_dump(include=SHOWN) for row in given],
        "missing": missing_people([row.actor for row in given], rules),
    }
