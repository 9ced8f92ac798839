"""/v1/lineage/COMPLETION: from an answer back to everything that shaped it; /v1/lineage?user=NAME: from a user forth to
everything that was made from their words.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from flywheel.database import reading
from flywheel.lineage import lineage
from flywheel.user_lineage import user_lineage
from serving.appliance import Appliance, appliance_of

router = APIRouter(tags=["lineage"])
Holder = Annotated[Appliance, Depends(appliance_of)]


@router.get("/v1/lineage")
def lineage_from(
    user: Annotated[str, Query(min_length=1)], appliance: Holder, limit: Annotated[int, Query(ge=1, le=500)] = 50
) -> dict[str, Any]:
    """Answers, pairs, dataset versions, runs, adapters, experiments and promotions that hold or come from a user's
    words: all of them counted, the newest shown."""
    with reading(appliance.database) as session:
        return user_lineage(session, user, tenant=appliance.tenant, limit=limit)


@router.get("/v1/lineage/{completion_id}")
def lineage_of(completion_id: str, appliance: Holder) -> dict[str, Any]:
    """Adapter, run, dataset version, pairs with judgments and ratings, experiment and promotion of one answer."""
    with reading(appliance.database) as session:
        return lineage(session, completion_id, tenant=appliance.tenant)
