"""Stored completions, as the stock client has them: list, retrieve, messages, update metadata, delete.

What is stored is the record itself: every finished completion whose client did not say store=false. Deleting one erases
its words everywhere (`flywheel/erasure.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field
from sqlmodel import Session

from flywheel.database import reading, writing
from flywheel.erasure import erase_completion
from flywheel.errors import ConflictError, NotFoundError
from flywheel.interactions import DELETED, KEPT, OPEN, Interaction, interaction, stored_completions
from serving.appliance import Appliance, appliance_of
from serving.stored import completion_body

router = APIRouter(tags=["chat"])
Holder = Annotated[Appliance, Depends(appliance_of)]
Limit = Annotated[int, Query(ge=1, le=100)]
Order = Literal["asc", "desc"]
PATH = "/v1/chat/completions"


class MetadataBody(BaseModel):
    metadata: dict[str, Annotated[str, Field(max_length=512)]] = Field(max_length=16)


@router.get(PATH)
def list_completions(
    request: Request,
    appliance: Holder,
    limit: Limit = 20,
    after: str | None = None,
    order: Order = "asc",
    model: str | None = None,
) -> dict[str, Any]:
    """A page by age; `metadata[name]=value` narrows it."""
    wanted = {name[9:-1]: value for name, value in request.query_params.items() if name.startswith("metadata[")}
    with reading(appliance.database) as session:
        rows = stored_completions(
            session,
            tenant=appliance.tenant,
            limit=limit + 1,
            after=after,
            newest_first=order == "desc",
            alias=model,
            metadata=wanted,
        )
    return page([completion_body(row) for row in rows], limit)


@router.get(PATH + "/{completion_id}")
def one_completion(completion_id: str, appliance: Holder) -> dict[str, Any]:
    """One of them, as it was answered."""
    with reading(appliance.database) as session:
        return completion_body(_stored(session, appliance, completion_id))


@router.get(PATH + "/{completion_id}/messages")
def messages_of(
    completion_id: str, appliance: Holder, limit: Limit = 20, after: str | None = None, order: Order = "asc"
) -> dict[str, Any]:
    """The messages that the client sent, each with an id of its own."""
    with reading(appliance.database) as session:
        row = _stored(session, appliance, completion_id)
    messages = [{"id": f"{row.id}-{place}", **message} for place, message in enumerate(row.messages)]
    messages = messages if order == "asc" else messages[::-1]
    places = [place for place, message in enumerate(messages, 1) if message["id"] == after]
    start = places[0] if places else 0
    return page(messages[start : start + limit + 1], limit)


@router.post(PATH + "/{completion_id}")
def update_completion(completion_id: str, body: MetadataBody, appliance: Holder) -> dict[str, Any]:
    """Replace the metadata; nothing else of an answer can be changed."""
    with writing(appliance.database) as session:
        row = _stored(session, appliance, completion_id)
        row.client_metadata = body.metadata
        session.add(row)
        return completion_body(row)


@router.delete(PATH + "/{completion_id}")
def delete_completion(completion_id: str, appliance: Holder) -> dict[str, Any]:
    """Erase its words, unfinished ones too; the row goes on counting, and never reaches a later dataset version."""
    with writing(appliance.database) as session:
        row = interaction(session, completion_id, tenant=appliance.tenant)
        if row.status == OPEN:
            raise ConflictError(f"Completion {completion_id!r} is still being answered. Delete it when it is over.")
        if row.content == DELETED:
            raise NotFoundError(f"Completion {completion_id!r} was deleted before.")
        erase_completion(session, row, actor=appliance.acting("", otherwise="api"))
    return {"object": "chat.completion.deleted", "id": completion_id, "deleted": True}


def page(found: Sequence[dict[str, Any]], limit: int) -> dict[str, Any]:
    """A list as the client's pager wants it; `found` may hold one more than the page."""
    data = found[:limit]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(found) > limit,
    }


def _stored(session: Session, appliance: Appliance, completion_id: str) -> Interaction:
    row = interaction(session, completion_id, tenant=appliance.tenant)
    if row.content != KEPT or row.status != "finished":
        raise NotFoundError(f"Completion {completion_id!r} is not stored: it holds no words, or it was not finished.")
    return row
