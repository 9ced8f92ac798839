"""/v1/experiments: champion against challenger, with the evidence so far. The worker opens them; a person may, too."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from flywheel.adapters import adapter
from flywheel.approvals import approvals_view
from flywheel.database import reading, writing
from flywheel.errors import ConflictError, UserError
from flywheel.experiments import Experiment, Mode, experiment, latest_experiments, make_plan, open_experiment
from flywheel.promotions import live_adapter
from serving.appliance import Appliance, appliance_of
from serving.evidence import look_at_running

router = APIRouter(tags=["experiments"])
Holder = Annotated[Appliance, Depends(appliance_of)]


class ExperimentBody(BaseModel):
    """What is left out is as the settings have it for the worker's own experiments."""

    model_config = ConfigDict(extra="forbid")
    challenger: str
    mode: Mode | None = None
    traffic_share: float | None = Field(default=None, gt=0, lt=1)
    ramp: list[float] | None = None
    minimum_users: int | None = Field(default=None, ge=10)
    minimum_hours: float | None = Field(default=None, ge=0)
    planned_effect: float | None = Field(default=None, gt=0, lt=1)
    actor: str = ""


@router.get("/v1/experiments")
def list_experiments(appliance: Holder, limit: Annotated[int, Query(ge=1, le=500)] = 50) -> dict[str, Any]:
    """Newest first."""
    with reading(appliance.database) as session:
        rows = latest_experiments(session, tenant=appliance.tenant, limit=limit)
    return {"data": [row.model_dump() for row in rows]}


@router.get("/v1/experiments/{experiment_id}")
async def one_experiment(experiment_id: str, appliance: Holder) -> dict[str, Any]:
    """One experiment, looked at afresh while it runs, and who has approved its evidence."""
    if await asyncio.to_thread(look_at_running, appliance.database, alias=appliance.settings.serving.alias):
        await appliance.live.refresh()
    return await asyncio.to_thread(_read, appliance, experiment_id)


def _read(appliance: Appliance, experiment_id: str) -> dict[str, Any]:
    with reading(appliance.database) as session:
        found = experiment(session, experiment_id, tenant=appliance.tenant)
        return found.model_dump() | {"approvals": approvals_view(session, found, appliance.settings.promotion)}


@router.post("/v1/experiments")
async def open_by_hand(body: ExperimentBody, appliance: Holder) -> dict[str, Any]:
    """Let an adapter challenge the live one. Users are split once every engine is ready for both."""
    opened = await asyncio.to_thread(_open, appliance, body)
    await appliance.live.refresh()
    return opened.model_dump()


def _open(appliance: Appliance, body: ExperimentBody) -> Experiment:
    settings, base_model = appliance.settings, appliance.live.base_model
    if base_model is None:
        raise ConflictError(
            "Nothing is live yet, so there is no champion to challenge: wait until the engine is ready."
        )
    with writing(appliance.database) as session:
        challenger = adapter(session, body.challenger)
        champion = live_adapter(session, alias=settings.serving.alias, base_model_hash=base_model.hash)
        if champion is None or challenger.base_model_hash != base_model.hash:
            raise UserError(f"{challenger.name} was trained on another base model than the one that is served.")
        if challenger.name == champion.name:
            raise ConflictError(f"{champion.name} is live already: it cannot challenge itself.")
        return open_experiment(
            session,
            tenant=appliance.tenant,
            alias=settings.serving.alias,
            champion=champion.name,
            challenger=challenger.name,
            plan=make_plan(settings.retrain, body.model_dump(exclude={"challenger", "actor"}, exclude_none=True)),
            actor=appliance.acting(body.actor),
        )
