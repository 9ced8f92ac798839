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
from flywheel.experiment_plan import Mode, make_plan
from flywheel.experiments import (
    CHALLENGER,
    CHAMPION,
    Experiment,
    experiment,
    latest_experiments,
    open_experiment,
)
from flywheel.promotions import live_adapter, live_prompt
from flywheel.prompt_versions import prompt_named, prompt_view
from flywheel.variants import Variant
from serving.appliance import Appliance, appliance_of
from serving.evidence import look_at_running

router = APIRouter(tags=["experiments"])
Holder = Annotated[Appliance, Depends(appliance_of)]


class ExperimentBody(BaseModel):
    """What is left out is as the settings have it for the worker's own experiments."""

    model_config = ConfigDict(extra="forbid")
    challenger: str | None = None
    """Without one, the live adapter is tried with another prompt."""
    prompt: str | None = None
    """A prompt version, or `shipped`; without one, the live prompt."""
    mode: Mode | None = None
    participants: float | None = Field(default=None, gt=0, le=1)
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
        approvals = approvals_view(session, found, appliance.settings.promotion)
        prompts = {CHAMPION: found.champion_prompt, CHALLENGER: found.challenger_prompt}
        views = {arm: prompt_view(session, prompt) for arm, prompt in prompts.items()}
        return found.model_dump() | {"approvals": approvals, "prompts": views}


@router.post("/v1/experiments")
async def open_by_hand(body: ExperimentBody, appliance: Holder) -> dict[str, Any]:
    """Let an adapter, a prompt version or both challenge what is live. Users are split once every engine is ready."""
    opened = await asyncio.to_thread(_open, appliance, body)
    await appliance.live.refresh()
    return opened.model_dump()


def _open(appliance: Appliance, body: ExperimentBody) -> Experiment:
    settings, base_model = appliance.settings, appliance.live.base_model
    if body.challenger is None and body.prompt is None:
        raise UserError("Name a challenger (an adapter), a prompt (a version, or `shipped`), or both.")
    if base_model is None:
        raise ConflictError(
            "Nothing is live yet, so there is no champion to challenge: wait until the engine is ready."
        )
    alias, told = settings.serving.alias, {"challenger", "prompt", "actor"}
    with writing(appliance.database) as session:
        live = live_adapter(session, alias=alias, base_model_hash=base_model.hash)
        challenger = adapter(session, body.challenger) if body.challenger is not None else live
        if live is None or challenger is None or challenger.base_model_hash != base_model.hash:
            raise UserError(f"{body.challenger} was trained on another base model than the one that is served.")
        appliance.live.check_places(challenger.name)
        prompt = live_prompt(session, alias=alias)
        other = prompt_named(session, body.prompt) if body.prompt is not None else prompt
        return open_experiment(
            session,
            tenant=appliance.tenant,
            alias=alias,
            champion=Variant(live.name, prompt),
            challenger=Variant(challenger.name, other),
            plan=make_plan(settings.retrain, body.model_dump(exclude=told, exclude_none=True)),
            actor=appliance.acting(body.actor),
        )
