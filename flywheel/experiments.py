"""Experiment: champion against challenger on live users of one alias, and the evidence that accumulates.

    running ─→ promoted | rejected   an operator's decision (flywheel/promotions.py)
            └→ stopped               the system's: a guardrail broke, or the sample ratio is off

A variant is an adapter and a prompt version; champion and challenger differ in one of them, or in both. Where the
adapters are the same, only routed questions belong to an arm, since no other is asked in our words.

At most one experiment runs per alias (a partial UNIQUE index), so nobody is ever in two. A user's arm is a pure
function of the salt and the user's name, so a restart never assigns anew. While a ramp climbs, the champion's arm is as
small a part of all users as the challenger's: who is in neither arm yet is answered by the champion, and nobody ever
changes from one arm to the other. `evidence` is the newest look, written by serving (`serving/evidence.py`), which is
always safe to take: the test is valid at any time.

How a challenger is tried (`mode`):
- split: each user has one arm, and rates what they get.
- shadow: the champion answers everybody; the challenger answers a share of the same questions, for the record only.
- interleaved: who asks for it gets both answers in a random order, and picks one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic import Field as PydanticField
from sqlalchemy import CheckConstraint, Index, String, text, update
from sqlmodel import Field, Session, SQLModel, col, select

from flywheel.audit import record_act
from flywheel.database import JsonOf, UtcTime, new_id, now
from flywheel.errors import ConflictError, NotFoundError, UserError
from flywheel.statistics.assignment import unit_interval
from flywheel.variants import Variant

PLANNED_EFFECT = 0.05  # as in flywheel/statistics/sequential.py, which would bring numpy here

CHAMPION, CHALLENGER = "champion", "challenger"
HOLDOUT = "holdout"
"""Not an arm of any experiment: users whom the base model without any learning answers, for good."""
Mode = Literal["split", "shadow", "interleaved"]
Share = Annotated[float, PydanticField(gt=0, lt=1)]


class Plan(BaseModel):
    """How an experiment is run; fixed when it opens."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)
    mode: Mode = "split"
    traffic_share: Share = 0.5
    """The share of users who are answered by the challenger: of shadowed or asked users in the other modes."""
    ramp: list[Share] = []
    """Smaller shares to go through first, such as .01 and .05. Each lasts until its users have shown no harm."""
    minimum_users: int = PydanticField(default=100, ge=1)
    """Per arm: no verdict but INVALID or ROLLBACK before."""
    minimum_hours: float = PydanticField(default=0.0, ge=0)
    """Nor before this time has passed: users of a Monday morning are not everybody."""
    planned_effect: float = PydanticField(default=PLANNED_EFFECT, gt=0, lt=1)
    """The improvement of the mean rating (0 to 1) that is to be found soonest."""

    @model_validator(mode="after")
    def _climbs(self) -> Plan:
        steps = [*self.ramp, self.traffic_share]
        if any(later <= earlier for earlier, later in pairwise(steps)):
            raise ValueError(f"ramp {self.ramp} must climb, and stay below traffic_share ({self.traffic_share})")
        return self


def make_plan(defaults: Any, changes: dict[str, Any]) -> Plan:
    """The plan that `defaults` (an object with some of its fields) and `changes` give. Raises UserError."""
    try:
        return Plan.model_validate(Plan.model_validate(defaults).model_dump() | changes)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{place or 'ramp'}: {first['msg'].removeprefix('Value error, ')}.") from error


@dataclass(frozen=True)
class Assignment:
    """A running experiment as requests need it: plain values, and who is in which arm."""

    id: str
    mode: Mode
    champion: Variant
    challenger: Variant
    salt: str
    challenged: float
    """The challenger's share of all users now."""
    compared: float
    """The champion's arm's share of all users now."""

    @property
    def prompts_alone(self) -> bool:
        """Whether nothing differs but the prompts."""
        return self.champion.adapter == self.challenger.adapter

    def arm_of(self, unit: str) -> str | None:
        """The arm of a user (or conversation): sticky, independent between salts; None: not in the experiment."""
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
    champion_prompt: str | None = Field(default=None, foreign_key="prompt_version.version")
    challenger_prompt: str | None = Field(default=None, foreign_key="prompt_version.version")
    """Null: the wording that Flywheel ships."""
    salt: str
    mode: Mode = Field(default="split", sa_type=String)
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
        """The challenger's share of all users now."""
        return [*self.ramp, self.traffic_share][self.step]

    def assignment(self) -> Assignment:
        """As requests need it."""
        share = self.share
        compared = share * (1 - self.traffic_share) / self.traffic_share
        arms = self.champion_variant, self.challenger_variant
        return Assignment(self.id, self.mode, *arms, self.salt, challenged=share, compared=compared)


def open_experiment(
    session: Session, *, tenant: str, alias: str, champion: Variant, challenger: Variant, plan: Plan, actor: str
) -> Experiment:
    """Start comparing. Raises ConflictError when an experiment already runs for this alias, or nothing differs."""
    if champion == challenger:
        raise ConflictError(f"{champion} is live already: it cannot challenge itself.")
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
        champion=champion.adapter,
        champion_prompt=champion.prompt,
        challenger=challenger.adapter,
        challenger_prompt=challenger.prompt,
        salt=experiment_id,
        created_at=now(),
        **plan.model_dump(),
    )
    session.add(experiment)
    session.flush()
    compared = experiment.model_dump(include={"champion", "champion_prompt", "challenger", "challenger_prompt"})
    details = {"alias": alias, **compared, **plan.model_dump()}
    record_act(session, tenant=tenant, actor=actor, act="open_experiment", subject=experiment_id, details=details)
    return experiment


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
