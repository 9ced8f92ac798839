"""/v1/audit: every act of a person or of the scheduler, and whether the chain is whole."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from flywheel.audit import audit_entries, audit_head, first_broken_position
from flywheel.database import reading
from serving.appliance import Appliance, appliance_of

router = APIRouter(tags=["audit"])
Holder = Annotated[Appliance, Depends(appliance_of)]


@router.get("/v1/audit")
def list_entries(
    appliance: Holder, limit: Annotated[int, Query(ge=1, le=1000)] = 100, before: int | None = None
) -> dict[str, Any]:
    """Newest first; `before` is the last position of the page above."""
    with reading(appliance.database) as session:
        rows = audit_entries(session, tenant=appliance.tenant, limit=limit, before=before)
    return {"data": [row.model_dump() for row in rows]}


@router.get("/v1/audit/verify")
def verify_chain(appliance: Holder, head: str | None = None) -> dict[str, Any]:
    """Walk the chain. With a `head` that was kept elsewhere, a cut-off end shows too."""
    with reading(appliance.database) as session:
        broken = first_broken_position(session, head=head)
        last = audit_head(session)
    return {"first_broken_position": broken, "entries": last.position if last else 0, "head": last.hash if last else ""}
