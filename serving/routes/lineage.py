"""/v1/lineage/COMPLETION: from an answer back to everything that shaped it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from flywheel.database import reading
from flywheel.lineage import lineage
from serving.appliance import Appliance, appliance_of

router = APIRouter(tags=["lineage"])
Holder = Annotated[Appliance, Depends(appliance_of)]


@router.get("/v1/lineage/{completion_id}")
def lineage_of(completion_id: str, appliance: Holder) -> dict[str, Any]:
    """Adapter, run, dataset version, pairs with judgments and ratings, experiment and promotion of one answer."""
    with reading(appliance.database) as session:
        return lineage(session, completion_id, tenant=appliance.tenant)
