"""POST /v1/feedback: what somebody thinks of an answer, acknowledged once it is on disk.

A rating, a comment and a correction in one request become a row each, kept together or not at all. Saying the same
again (a client that retries) adds nothing; saying something else adds a row, and the newest counts. A pick (of one
choice among several) is a row and decided preference pairs.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field, StrictBool
from sqlalchemy import Table, insert

from flywheel.database import reading, writing
from flywheel.errors import ConflictError, UserError
from flywheel.feedback import PICK, RATING, Feedback, feedback_history, new_feedback
from flywheel.interactions import KEPT, Interaction, choices_of, interaction
from flywheel.pairs import add_picked
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
    id: str | None = Field(default=None, min_length=1, max_length=128)
    """The client's own id of this feedback: sent again, it is the same."""


@router.post("/v1/feedback")
async def give_feedback(body: FeedbackBody, appliance: Holder) -> dict[str, Any]:
    """Store what was said. 404 when no such completion is known here, 409 when `id` was used for something else."""
    said, known = await asyncio.to_thread(_rows, appliance, body)
    new = [row for row in said if not any(_same(row, other) for other in known)]
    if new and body.name == PICK:
        await asyncio.to_thread(_pick, appliance, body, new)
    elif new:
        await appliance.writer.submit(*(Write(SAY, row.model_dump()) for row in new))
    kept = [next((other for other in known if _same(row, other)), row) for row in said]
    return {
        "object": "feedback",
        **kept[0].model_dump(exclude={"tenant"}),
        "ids": [row.id for row in kept],
    }


def _pick(appliance: Appliance, body: FeedbackBody, new: list[Feedback]) -> None:
    with writing(appliance.database) as session:
        about = interaction(session, body.completion_id, tenant=appliance.settings.tenant)
        session.add_all(new)
        add_picked(session, about, choice=body.choice, reviewer=new[0].actor or "anonymous")


def _rows(appliance: Appliance, body: FeedbackBody) -> tuple[list[Feedback], list[Feedback]]:
    """The rows this request makes, and what counts so far for the same actor or under the same id."""
    about = rateable(appliance, body.completion_id, choice=body.choice)
    with reading(appliance.database) as session:
        history = feedback_history(session, body.completion_id)
    actor = body.actor or body.user or about.user
    value = True if body.name == PICK and body.value is None else body.value
    parts: list[tuple[str, bool | float | None, str | None]] = []
    if value is not None:
        parts.append((body.name, value, None))
    parts += [(name, None, text) for name, text in (("comment", body.comment), ("correction", body.correction)) if text]
    if not parts:
        raise UserError("Feedback needs a value, a comment or a correction.")
    said = [
        new_feedback(
            tenant=about.tenant,
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
        row.choice, row.key = body.choice, body.id
    newest = {(row.name, row.choice, row.actor): row for row in history}
    under_id = [row for row in history if row.key is not None and row.key == body.id]
    if any(not any(_same(row, other) for row in said) for other in under_id):
        raise ConflictError(f"Feedback id {body.id!r} was used for something else on this completion. Use a new one.")
    return said, [*newest.values(), *under_id]


def rateable(appliance: Appliance, completion_id: str, *, choice: int) -> Interaction:
    """The completion, once it is sure that it has the choice. Raises NotFoundError and UserError."""
    with reading(appliance.database) as session:
        about = interaction(session, completion_id, tenant=appliance.settings.tenant)
    choices = max(1, len(choices_of(about))) if about.content == KEPT else choice + 1
    if choice >= choices:
        raise UserError(f"choice {choice} does not exist: completion {about.id} has {choices}, from 0 on.")
    return about


def _same(row: Feedback, other: Feedback) -> bool:
    fields = ("name", "choice", "actor", "value", "score", "text", "source")
    return all(getattr(row, field) == getattr(other, field) for field in fields)
