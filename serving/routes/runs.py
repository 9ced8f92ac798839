"""/v1/runs: ask for a turn of the trainer, watch it, cancel it. The worker takes queued runs from the database."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict

from flywheel.database import reading, writing
from flywheel.runs import cancel_run, latest_runs, queue_run, run_events, training_run
from serving.appliance import Appliance, appliance_of

router = APIRouter(tags=["runs"])
Holder = Annotated[Appliance, Depends(appliance_of)]


class RunBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    recipe: dict[str, Any] = {}
    """Overrides of the recipe in the settings; judged by the worker, which knows the recipes."""
    requested_by: str = ""
    """Who asks; without it, the key's name."""


class ActBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    actor: str = ""


@router.post("/v1/runs")
def ask_for_run(body: RunBody, appliance: Holder) -> dict[str, Any]:
    """Queue a run."""
    with writing(appliance.database) as session:
        run = queue_run(
            session,
            tenant=appliance.tenant,
            alias=appliance.settings.serving.alias,
            recipe=body.recipe,
            requested_by=appliance.acting(body.requested_by),
        )
    return run.model_dump()


@router.get("/v1/runs")
def list_runs(appliance: Holder, limit: Annotated[int, Query(ge=1, le=500)] = 50) -> dict[str, Any]:
    """Newest first."""
    with reading(appliance.database) as session:
        rows = latest_runs(session, tenant=appliance.tenant, limit=limit)
    return {"data": [row.model_dump() for row in rows]}


@router.get("/v1/runs/{run_id}")
def one_run(run_id: str, appliance: Holder) -> dict[str, Any]:
    """One run and its events, oldest first."""
    with reading(appliance.database) as session:
        run = training_run(session, run_id, tenant=appliance.tenant)
        events = run_events(session, run_id)
    return run.model_dump() | {"events": [event.model_dump() for event in events]}


@router.post("/v1/runs/{run_id}/cancel")
def stop_run(run_id: str, body: ActBody, appliance: Holder) -> dict[str, Any]:
    """Cancel a run that has not ended; its worker notices at its next step."""
    with writing(appliance.database) as session:
        run = training_run(session, run_id, tenant=appliance.tenant)
        cancel_run(session, run, actor=appliance.acting(body.actor))
        session.refresh(run)
    return run.model_dump()
