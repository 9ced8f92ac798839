"""/v1/merges: whether the champion may be served merged into the base weights, and how far that has come."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict

from flywheel.database import reading, writing
from flywheel.merges import Merge, allow_merge, newest_merge, withdraw_merge
from serving.appliance import Appliance, appliance_of

router = APIRouter(tags=["merges"])
Holder = Annotated[Appliance, Depends(appliance_of)]


class MergeBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    act: Literal["allow", "withdraw"]
    actor: str = ""
    """Who decides; without it, the key's name."""
    reason: str = ""


@router.get("/v1/merges")
def newest(appliance: Holder) -> dict[str, Any]:
    """The newest permission and its state; `merge` is null where none was ever given."""
    with reading(appliance.database) as session:
        row = newest_merge(session, alias=appliance.settings.serving.alias)
    return {"merge": row.model_dump() if row is not None else None, "in_service": appliance.live.merged_in_service()}


@router.post("/v1/merges")
async def decide(body: MergeBody, appliance: Holder) -> dict[str, Any]:
    """Permit it for what is live, until the next promotion or rollback; or have the adapter served as one again."""
    row = await asyncio.to_thread(_act, appliance, body)
    await appliance.live.refresh()
    return row.model_dump()


def _act(appliance: Appliance, body: MergeBody) -> Merge:
    settings, who = appliance.settings, appliance.acting(body.actor)
    with writing(appliance.database) as session:
        if body.act == "withdraw":
            return withdraw_merge(session, alias=settings.serving.alias, actor=who, reason=body.reason)
        return allow_merge(session, settings, tenant=appliance.tenant, actor=who, reason=body.reason)
