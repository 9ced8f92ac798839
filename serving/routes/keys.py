"""/v1/keys: make, list and revoke API keys. An admin of the appliance's own tenant does so for every tenant."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from flywheel.database import reading, writing
from flywheel.errors import ForbiddenError
from flywheel.keys import LOCAL, ApiKey, Limits, Scope, create_key, revoke_key, tenant_keys
from serving.access import Caller
from serving.appliance import Appliance, appliance_of

router = APIRouter(tags=["keys"])
Holder = Annotated[Appliance, Depends(appliance_of)]
Word = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*\S[^\x00]*$")]


class KeyBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Word
    scope: Scope = "chat"
    tenant: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None
    days: Annotated[int, Field(ge=1, le=3650)] | None = None
    limits: Limits = Limits()
    actor: Annotated[str, Field(max_length=200)] = ""


class ActBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    actor: Annotated[str, Field(max_length=200)] = ""


@router.get("/v1/caller")
def caller(request: Request) -> dict[str, Any]:
    """Whose key this is: for programs that act for a person."""
    found: Caller = request.state.caller
    name = found.key.name if found.key is not None else None
    return {"object": "caller", "name": None if name == LOCAL else name, "tenant": found.tenant, "scope": found.scope}


@router.post("/v1/keys")
def make_key(body: KeyBody, appliance: Holder) -> dict[str, Any]:
    """A new key. `secret` is in this answer and nowhere else."""
    tenant = body.tenant or appliance.tenant
    if tenant != appliance.tenant and not _everywhere(appliance):
        raise ForbiddenError(f"This key belongs to tenant {appliance.tenant}, and so do the keys it makes.")
    with writing(appliance.database) as session:
        key, secret = create_key(
            session,
            tenant=tenant,
            name=body.name,
            scope=body.scope,
            actor=appliance.acting(body.actor),
            lifetime=timedelta(days=body.days) if body.days else None,
            limits=body.limits,
        )
    return _shown(key) | {"secret": secret}


@router.get("/v1/keys")
def list_keys(appliance: Holder) -> dict[str, Any]:
    """Newest first."""
    with reading(appliance.database) as session:
        rows = tenant_keys(session, tenant=None if _everywhere(appliance) else appliance.tenant)
    return {"data": [_shown(row) for row in rows if row.name != LOCAL]}


@router.post("/v1/keys/{key_id}/revoke")
def end_key(key_id: str, body: ActBody, appliance: Holder) -> dict[str, Any]:
    """It is refused from the next second on."""
    tenant = None if _everywhere(appliance) else appliance.tenant
    with writing(appliance.database) as session:
        return _shown(revoke_key(session, key_id, tenant=tenant, actor=appliance.acting(body.actor)))


def _everywhere(appliance: Appliance) -> bool:
    return appliance.tenant == appliance.settings.tenant


def _shown(key: ApiKey) -> dict[str, Any]:
    state = "revoked" if key.revoked_at else "valid" if key.card().valid else "ended"
    return key.model_dump(exclude={"secret_hash"}) | {"object": "key", "state": state}
