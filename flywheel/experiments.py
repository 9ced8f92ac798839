"""Experiment: champion against challenger on live users of one alias, and the evidence that accumulates.

    running ─→ promoted | rejected   an operator's decision (flywheel/promotions.py)
            └→ stopped               a guardrail broke, the sample ratio is off, or the champion is live no longer

A variant is an adapter and a prompt version; champion and challenger differ in one of them, or in both. Where the
adapters are the same, only routed questions belong to an arm, since no other is asked in our words.

Nobody is ever in two experiments of an alias: all its users stand in one order, and each experiment has a stretch of it
to itself (`participants` long; a partial UNIQUE index on where it begins). Who takes part, and in which arm, is a pure
function of names and salts, so a restart never assigns anew. While a ramp climbs, the champion's arm is as small a part
of them as the challenger's: who is in neither arm yet is answered by the champion, and nobody ever changes from one arm
to the other. `evidence` is the newest look, written by serving (`serving/evidence.py`), which is
always safe to take: the test is valid at any time.

How a challenger is tried (`mode`):
- split: each user has one arm, and rates what they get.
- shadow: the champion answers everybody; the challenger answers a share of the same questions, for the record only.
- interleaved: who asks for it gets both answers in a random order, and picks one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Index, String, text, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Field, Session, SQLModel, col, select

from flywheel.audit import record_act
from flywheel.database import JsonOf, UtcTime, new_id, now
from flywheel.errors import ConflictError, NotFoundError
from flywheel.experiment_plan import PLANNED_EFFECT, Mode, Plan
from flywheel.statistics.assignment import unit_interval
from flywheel.variants import Variant

SLIVER = 1e-9
"""Shares are summed as floats."""
CHAMPION, CHALLENGER = "champion", "challenger"
HOLDOUT = "holdout"
"""Not an arm of any experiment: users whom the base model without any learning answers, for good."""


@dataclass(frozen=True)
class Assignment:
    """A running experiment as requests need it: plain values, and who is in which arm."""

    id: str
    mode: Mode
    champion: Variant
    challenger: Variant
    salt: str
    challenged: float
    """The challenger's share of who takes part, now."""
    compared: float
    """The champion's arm's share of them, now."""
    taking_part: tuple[float, float] = (0.0, 1.0)
    """From where to where, in the order of all users."""

    @property
    def prompts_alone(self) -> bool:
        """Whether nothing differs but the prompts."""
        return self.champion.adapter == self.challenger.adapter

    def has(self, place: float) -> bool:
        """Whether the user at this place in the order (`place_of`) takes part."""
        return self.taking_part[0] <= place < self.taking_part[1]

    def arm_of(self, unit: str) -> str | None:
        """The arm of somebody who takes part: sticky, independent between salts; None: in neither arm yet."""
        place = unit_interval(self.salt, unit)
        if place < self.challenged:
            return CHALLENGER
        return CHAMPION if place >= 1 - self.compared or self.challenged + self.compared >= 1 else None


class Experiment(SQLModel, table=True):
    __tablename__ = "experiment"
    __table_args__ = (
        CheckConstraint("state IN ('running', 'promoted', 'rejected', 'stopped')", name="state"),
        CheckConstraint("traffic_share > 0 AND traffic_share < 1", name="traffic_share"),
        CheckConstraint("planned_effect > 0 AND planned_effect < 1", name="planned_effect"),
        CheckConstraint(
            "champion <> challenger OR coalesce(champion_prompt, '') <> coalesce(challenger_prompt, '')",
            name="two_variants",
        ),
        CheckConstraint("mode IN ('split', 'shadow', 'interleaved')", name="mode"),
        CheckConstraint("participants > 0 AND participants <= 1", name="participants"),
        CheckConstraint("users_from >= 0 AND users_from < 1", name="users_from"),
        Index(
            "one_running_per_place",
            "alias",
            "users_from",
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
    champion_prompt: str | None = Field(default=None, foreign_key="prompt_version.version")
    challenger_prompt: str | None = Field(default=None, foreign_key="prompt_version.version")
    """Null: the wording that Flywheel ships."""
    salt: str
    mode: Mode = Field(default="split", sa_type=String)
    participants: float = 1.0
    users_from: float = 0.0
    """Where the stretch of users who take part begins."""
    traffic_share: float = 0.5
    ramp: list[float] = Field(default_factory=list, sa_type=JsonOf(list[float]))
    step: int = 0
    """How many of the ramp's shares are passed."""
    minimum_users: int = 100
    minimum_hours: float = 0.0
    planned_effect: float = PLANNED_EFFECT
    state: str = "running"
    evidence: dict[str, Any] | None = Field(default=None, sa_type=JsonOf(dict[str, Any]))
    evidence_hash: str | None = None
    created_at: datetime = Field(sa_type=UtcTime)
    ended_at: datetime | None = Field(default=None, sa_type=UtcTime)

    @property
    def champion_variant(self) -> Variant:
        return Variant(self.champion, self.champion_prompt)

    @property
    def challenger_variant(self) -> Variant:
        return Variant(self.challenger, self.challenger_prompt)

    @property
    def share(self) -> float:
        """The challenger's share of who takes part, now."""
        return [*self.ramp, self.traffic_share][self.step]

    def assignment(self) -> Assignment:
        """As requests need it."""
        share = self.share
        compared = share * (1 - self.traffic_share) / self.traffic_share
        arms, start = (self.champion_variant, self.challenger_variant), self.users_from
        users = (start, 1.0 if start + self.participants > 1 - SLIVER else start + self.participants)
        return Assignment(self.id, self.mode, *arms, self.salt, share, compared, taking_part=users)


def open_experiment(
    session: Session, *, tenant: str, alias: str, champion: Variant, challenger: Variant, plan: Plan, actor: str
) -> Experiment:
    """Start comparing. Raises ConflictError when too few users are free, or nothing differs."""
    if champion == challenger:
        raise ConflictError(f"{champion} is live already: it cannot challenge itself.")
    start = _free_stretch(running_experiments(session, alias=alias), plan.participants, alias=alias)
    experiment_id = new_id("exp")
    experiment = Experiment(
        id=experiment_id,
        tenant=tenant,
        alias=alias,
        champion=champion.adapter,
        champion_prompt=champion.prompt,
        challenger=challenger.adapter,
        challenger_prompt=challenger.prompt,
        salt=experiment_id,
        users_from=start,
        created_at=now(),
        **plan.model_dump(),
    )
    session.add(experiment)
    try:
        session.flush()
    except IntegrityError as error:
        raise ConflictError(f"Somebody else has just opened an experiment for {alias!r}: look at it first.") from error
    compared = experiment.model_dump(include={"champion", "champion_prompt", "challenger", "challenger_prompt"})
    details = {"alias": alias, **compared, **plan.model_dump()}
    record_act(session, tenant=tenant, actor=actor, act="open_experiment", subject=experiment_id, details=details)
    return experiment


def _free_stretch(running: Sequence[Experiment], wanted: float, *, alias: str) -> float:
    """Where so long a stretch of users begins that no running experiment has; the first that fits. Of two who look at
    once both find the same one, or two that do not touch. Raises ConflictError."""
    start, longest = 0.0, 0.0
    for begins, length in [*sorted((one.users_from, one.participants) for one in running), (1.0, 0.0)]:
        if begins - start > wanted - SLIVER:
            return start
        longest, start = max(longest, begins - start), begins + length
    names, ways = ", ".join(one.id for one in running), "promote or reject its challenger first"
    if longest > SLIVER:
        ways += f", or open this one for {longest:.0%} of the users (participants)"
    raise ConflictError(f"Experiment {names} already runs for {alias!r}: {ways}.")


def place_of(alias: str, unit: str) -> float:
    """A user's (or conversation's) place in the order of all users of an alias, in [0, 1)."""
    return unit_interval(f"participants:{alias}", unit)


def climb(session: Session, experiment: Experiment) -> None:
    """Go to the next share of the ramp."""
    experiment.step += 1
    session.add(experiment)
    details = {"share": experiment.share}
    record_act(
        session,
        tenant=experiment.tenant,
        actor="system",
        act="ramp_experiment",
        subject=experiment.id,
        details=details,
    )


def running_experiments(session: Session, *, alias: str) -> list[Experiment]:
    """Those that an alias's users take part in now, the oldest first."""
    query = select(Experiment).where(Experiment.alias == alias, Experiment.state == "running")
    return list(session.exec(query.order_by(col(Experiment.id))))


def stop_all(session: Session, *, alias: str, actor: str, reason: str) -> None:
    """End what compares with a variant that is live no longer."""
    for running in running_experiments(session, alias=alias):
        stop_experiment(session, running, state="stopped")
        record_act(
            session,
            tenant=running.tenant,
            actor=actor,
            act="stop_experiment",
            subject=running.id,
            details={"reason": reason},
        )


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
