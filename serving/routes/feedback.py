"""POST /v1/feedback: what somebody thinks of an answer, acknowledged once it is on disk.

A rating, a comment and a correction in one request become a row each, kept together or not at all. Saying the same
again (a client that retries) adds nothing; saying something else adds a row, and the newest counts.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field, StrictBool
from sqlalchemy import Table, insert

from flywheel.database import reading
from flywheel.errors import UserError
from flywheel.feedback import RATING, Feedback, feedback_history, new_feedback
from flywheel.interactions import interaction
from serving.appliance import Appliance, appliance_of
from serving.writer import Write

router = APIRouter(tags=["feedback"])
Holder = Annotated[Appliance, Depends(appliance_of)]
FEEDBACK: Table = Feedback.__table__  # type: ignore[attr-defined]
SAY = insert(FEEDBACK)


class FeedbackBody(BaseModel):
    completion_id: str
    name: str = Field(default=RATING, min_length=1, max_length=64)
    value: StrictBool | float | None = None
    comment: str | None = Field(default=None, max_length=20_000)
    correction: str | None = Field(default=None, max_length=100_000)
    choice: int = Field(default=0, ge=0)
    user: str | None = None
    source: str = "user"
    actor: str | None = None


@router.post("/v1/feedback")
async def give_feedback(body: FeedbackBody, appliance: Holder) -> dict[str, Any]:
    """Store what was said. 404 when no such completion is known here."""
    said, known = await asyncio.to_thread(_rows, appliance, body)
    new = [row for row in said if not any(_same(row, other) for other in known)]
    if new:
        await appliance.writer.submit(*(Write(SAY, row.model_dump()) for row in new))
    kept = [next((other for other in known if _same(row, other)), row) for row in said]
    first = kept[0]
    return {
        "object": "feedback",
        **first.model_dump(exclude={"tenant"}),
        "ids": [row.id for row in kept],
    }


def _rows(appliance: Appliance, body: FeedbackBody) -> tuple[list[Feedback], list[Feedback]]:
    """The rows this request makes, and what counts so far for the same actor."""
    tenant = appliance.settings.tenant
    with reading(appliance.database) as session:
        about = interaction(session, body.completion_id, tenant=tenant)
        history = feedback_history(session, body.completion_id)
    actor = body.actor or body.user or about.user
    parts: list[tuple[str, bool | float | None, str | None]] = []
    if body.value is not None:
        parts.append((body.name, body.value, None))
    parts += [(name, None, text) for name, text in (("comment", body.comment), ("correction", body.correction)) if text]
    if not parts:
        raise UserError("Feedback needs a value, a comment or a correction.")
    said = [
        new_feedback(
            tenant=tenant,
            completion_id=body.completion_id,
            name=name,
            value=value,
            text=text,
            source=body.source,
            actor=actor,
        )
        for name, value, text in parts
    ]
    for row in said:
        row.choice = body.choice
    newest = {(row.name, row.choice, row.actor): row for row in history}
    return said, list(newest.values())


def _same(row: Feedback, other: Feedback) -> bool:
    fields = ("name", "choice", "actor", "value", "score", "text", "source")
    return all(getattr(row, field) == getattr(other, field) for field in fields)
