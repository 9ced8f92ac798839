"""Plan: how an experiment is run. Fixed when it opens; the modes are told in `flywheel/experiments.py`."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flywheel.errors import UserError

PLANNED_EFFECT = 0.05  # as in flywheel/statistics/sequential.py, which would bring numpy here
Mode = Literal["split", "shadow", "interleaved"]
Share = Annotated[float, Field(gt=0, lt=1)]


class Plan(BaseModel):
    """How an experiment is run."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)
    mode: Mode = "split"
    participants: float = Field(default=1.0, gt=0, le=1)
    """The share of all users who take part; the others are free for another experiment."""
    traffic_share: Share = 0.5
    """The share of them who are answered by the challenger: of shadowed or asked users in the other modes."""
    ramp: list[Share] = []
    """Smaller shares to go through first, such as .01 and .05. Each lasts until its users have shown no harm."""
    minimum_users: int = Field(default=100, ge=1)
    """Per arm: no verdict but INVALID or ROLLBACK before."""
    minimum_hours: float = Field(default=0.0, ge=0)
    """Nor before this time has passed: users of a Monday morning are not everybody."""
    planned_effect: float = Field(default=PLANNED_EFFECT, gt=0, lt=1)
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
