"""GET /v1/models: the names a client may ask for, aliases first."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from serving.appliance import Appliance, appliance_of
from serving.live import LiveAliases, UnknownNameError

router = APIRouter(tags=["models"])
Holder = Annotated[Appliance, Depends(appliance_of)]


@router.get("/v1/models")
async def list_models(appliance: Holder) -> dict[str, Any]:
    """Aliases and the adapters in reach. An alias's `root` is its live adapter; an adapter has a `parent`."""
    return {"object": "list", "data": [_card(appliance.live, name) for name in appliance.live.names()]}


@router.get("/v1/models/{name}")
async def one_model(name: str, appliance: Holder) -> dict[str, Any]:
    """One of them; 404 model_not_found otherwise."""
    if name not in appliance.live.names():
        raise UnknownNameError(f"No model {name!r} is served here. GET /v1/models lists the names.")
    return _card(appliance.live, name)


def _card(live: LiveAliases, name: str) -> dict[str, Any]:
    serving = live.settings.serving
    alias = name in (serving.alias, serving.plain_alias)
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "flywheel",
        "parent": None if alias else live.settings.base_model,
        "root": live.standing.champion if alias else name,
    }
