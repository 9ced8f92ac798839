"""GET /v1/usage: latency, speed, errors, tokens and cost by alias and arm."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from flywheel.database import now, reading
from flywheel.usage import Prices, usage
from serving.appliance import Appliance, appliance_of

router = APIRouter(tags=["usage"])
Holder = Annotated[Appliance, Depends(appliance_of)]


@router.get("/v1/usage")
def usage_since(appliance: Holder, hours: Annotated[float, Query(gt=0, le=24 * 366)] = 24) -> dict[str, Any]:
    """Of the last hours."""
    settings, since = appliance.settings.serving, now() - timedelta(hours=hours)
    prices = Prices(settings.prompt_price, settings.completion_price)
    with reading(appliance.database) as session:
        rows = usage(session, tenant=appliance.tenant, since=since, prices=prices)
    return {"since": since, "currency": settings.currency, "data": [row.model_dump() for row in rows]}
