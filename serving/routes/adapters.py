"""/v1/adapters: what was trained, with its gate report, what it is live for and which engines hold it ready; its model
card and what it was made of.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from flywheel.adapter_files import model_card
from flywheel.adapters import Adapter, adapter, latest_adapters
from flywheel.database import reading
from flywheel.lineage import adapter_lineage, adapter_view
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


@router.get("/v1/adapters/{name}/lineage")
def lineage_of_adapter(name: str, appliance: Holder) -> dict[str, Any]:
    """Its recipe, parents, run, dataset version, and the pairs that it learnt from."""
    with reading(appliance.database) as session:
        return adapter_lineage(session, adapter(session, name))


@router.get("/v1/adapters/{name}/card")
def card_of_adapter(name: str, appliance: Holder) -> dict[str, str]:
    """Its model card, as it was published with it. 404 where it has none."""
    with reading(appliance.database) as session:
        row = adapter(session, name)
    return {"adapter": row.name, "text": model_card(appliance.settings.adapters_folder / row.name)}


def _shown(appliance: Appliance, row: Adapter) -> dict[str, Any]:
    live, serving = appliance.live, appliance.settings.serving
    live_for = [serving.alias, serving.plain_alias] if row.name == live.standing.champion else []
    return adapter_view(row) | {"live_for": live_for, "loaded_on": live.loaded_on(row.name)}
