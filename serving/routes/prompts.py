"""/v1/prompts: the wordings of the routes' prompts. A new one answers nobody until an experiment tries it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict

from flywheel.database import reading, writing
from flywheel.prompt_versions import (
    add_prompt_version,
    latest_prompt_versions,
    prompt_named,
    prompt_view,
    read_wording,
    version_of,
)
from serving.appliance import Appliance, appliance_of

router = APIRouter(tags=["prompts"])
Holder = Annotated[Appliance, Depends(appliance_of)]


class PromptBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    wording: dict[str, Any]
    """knowledge, passage, no_passages, small_talk, refuse: all five."""
    note: str = ""
    actor: str = ""


@router.get("/v1/prompts")
def list_prompts(appliance: Holder, limit: Annotated[int, Query(ge=1, le=500)] = 50) -> dict[str, Any]:
    """Newest first, and at the end the one that Flywheel ships; `live` is the hash of the one that is live."""
    with reading(appliance.database) as session:
        names = [row.version for row in latest_prompt_versions(session, limit=limit)]
        found = [prompt_view(session, name) for name in (*names, None)]
    return {"live": version_of(appliance.live.standing.prompt), "data": found}


@router.get("/v1/prompts/{version}")
def one_prompt(version: str, appliance: Holder) -> dict[str, Any]:
    """One wording; `shipped` names the one that comes with Flywheel."""
    with reading(appliance.database) as session:
        return prompt_view(session, prompt_named(session, version))


@router.post("/v1/prompts")
def add_prompt(body: PromptBody, appliance: Holder) -> dict[str, Any]:
    """Keep a wording. The same words again are the same version, as it was kept first."""
    wording, actor = read_wording(body.wording), appliance.acting(body.actor)
    with writing(appliance.database) as session:
        row = add_prompt_version(session, wording, tenant=appliance.tenant, note=body.note, actor=actor)
        return prompt_view(session, row.version)
