"""/v1/adapters: what was trained, with its gate report, what it is live for and which engines hold it ready."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from flywheel.adapters import Adapter, adapter, latest_adapters
from flywheel.database import reading
from flywheel.lineage import adapter_view
from serving.appliance import Appliance, appliance_of

router = APIRouter(tags=["adapters"])
Holder = Annotated[Appliance, Depends(appliance_of)]


@router.get("/v1/adapters")
def list_adapters(appliance: Holder) -> dict[str, Any]:
    """Newest first."""
    with reading(appliance.database) as session:
        rows = latest_adapters(session)
    return {"data": [_shown(appliance, row) for row in rows]}


@router.get("/v1/adapters/{name}")
def one_adapter(name: str, appliance: Holder) -> dict[str, Any]:
    """One adapter with its manifest."""
    with reading(appliance.database) as session:
        row = adapter(session, name)
    return _shown(appliance, row) | {"manifest": row.manifest}


def _shown(appliance: Appliance, row: Adapter) -> dict[str, Any]:
    live, serving = appliance.live, appliance.settings.serving
    live_for = [serving.alias, serving.plain_alias] if row.name == live.standing.champion else []
    return adapter_view(row) | {"live_for": live_for, "loaded_on": live.loaded_on(row.name)}
