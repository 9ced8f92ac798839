"""GET /v1/interactions: what was asked and answered, newest first; one of them with everything said about it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from sqlmodel import col, select

from flywheel.database import reading
from flywheel.feedback import feedback_history
from flywheel.interactions import interaction, latest_interactions
from flywheel.pairs import PreferencePair
from serving.appliance import Appliance, appliance_of

router = APIRouter(tags=["interactions"])
Holder = Annotated[Appliance, Depends(appliance_of)]


@router.get("/v1/interactions")
def list_interactions(
    appliance: Holder, limit: Annotated[int, Query(ge=1, le=500)] = 50, before: str | None = None
) -> dict[str, Any]:
    """A page; `before` is the last id of the page above."""
    with reading(appliance.database) as session:
        rows = latest_interactions(session, tenant=appliance.tenant, limit=limit, before=before)
    return {"data": [row.model_dump() for row in rows]}


@router.get("/v1/interactions/{completion_id}")
def one_interaction(completion_id: str, appliance: Holder) -> dict[str, Any]:
    """The interaction, its feedback oldest first, and the preference pairs made of it."""
    with reading(appliance.database) as session:
        found = interaction(session, completion_id, tenant=appliance.tenant)
        said = feedback_history(session, completion_id)
        query = select(PreferencePair).where(PreferencePair.completion_id == completion_id)
        pairs = list(session.exec(query.order_by(col(PreferencePair.id))))
    return {
        **found.model_dump(),
        "feedback": [row.model_dump() for row in said],
        "pairs": [row.model_dump() for row in pairs],
    }
