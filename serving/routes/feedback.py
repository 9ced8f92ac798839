"""POST /v1/feedback: what somebody thinks of an answer, acknowledged once it is on disk.

A rating, a comment and a correction in one request become a row each, kept together or not at all. Saying the same
again (a client that retries) adds nothing; saying something else adds a row, and the newest counts. A pick (of one
choice among several) is a row and decided preference pairs; a correction is a row and a pair that waits for a reviewer.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Depends
from pydantic import AfterValidator, BaseModel, Field, StrictBool
from sqlalchemy import Table, insert
from sqlmodel import Session

from flywheel.database import reading, writing
from flywheel.errors import ConflictError, UnavailableError, UserError
from flywheel.feedback import CORRECTION, PICK, RATING, Feedback, feedback_history, new_feedback
from flywheel.interactions import KEPT, Interaction, choices_of, interaction
from flywheel.pairs import add_corrected, add_picked
from serving.appliance import Appliance, appliance_of
from serving.statements import Write

router = APIRouter(tags=["feedback"])
Holder = Annotated[Appliance, Depends(appliance_of)]
FEEDBACK: Table = Feedback.__table__  # type: ignore[attr-defined]
SAY = insert(FEEDBACK)


def _whole_text(text: str) -> str:
    if "\0" in text:
        raise ValueError("the text holds a NUL character, which cannot be stored")
    return text


# Text that every database can hold: a length limit also makes pydantic refuse broken Unicode.
Name = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_whole_text)]
Comment = Annotated[str, Field(min_length=1, max_length=20_000), AfterValidator(_whole_text)]
Correction = Annotated[str, Field(min_length=1, max_length=100_000), AfterValidator(_whole_text)]


class FeedbackBody(BaseModel):
    completion_id: Name
    name: Name = RATING
    value: StrictBool | float | None = None
    comment: Comment | None = None
    correction: Correction | None = None
    choice: int = Field(default=0, ge=0, le=1000)
    user: Name | None = None
    source: Name = "user"
    actor: Name | None = None
    id: Name | None = None
    """The client's own id of this feedback: sent again, it is the same."""


class Said(NamedTuple):
    """The rows that a request makes, and which of them are new."""

    kept: list[Feedback]
    new: list[Feedback]


@router.post("/v1/feedback")
async def give_feedback(body: FeedbackBody, appliance: Holder) -> dict[str, Any]:
    """Store what was said. 404 when no such completion is known here, 409 when `id` was used for something else."""
    appliance.writer.refuse_when_behind()
    if body.name == PICK or body.correction:
        said = await asyncio.to_thread(_with_pairs, appliance, body)
    else:
        said = await asyncio.to_thread(_read, appliance, body)
        if said.new:
            said = await _keep(appliance, body, said)
    return {"object": "feedback", **said.kept[0].model_dump(exclude={"tenant"}), "ids": [row.id for row in said.kept]}


def _read(appliance: Appliance, body: FeedbackBody) -> Said:
    with reading(appliance.database) as session:
        about = rateable(session, appliance, body.completion_id, choice=body.choice)
        return _said(session, about, body)


async def _keep(appliance: Appliance, body: FeedbackBody, said: Said) -> Said:
    """On disk when it returns. The same request may have come twice at once; then one of them is what is kept."""
    try:
        await appliance.writer.submit(*(Write(SAY, row.model_dump()) for row in said.new))
    except UnavailableError:
        said = await asyncio.to_thread(_read, appliance, body)
        if said.new:
            raise
    return said


def _with_pairs(appliance: Appliance, body: FeedbackBody) -> Said:
    """Feedback that makes pairs: in one transaction, and for one completion one after another."""
    if body.name == PICK and body.value not in (None, True):
        raise UserError("A pick says which choice is best: its value is true, or left out.")
    with writing(appliance.database) as session:
        rateable(session, appliance, body.completion_id, choice=body.choice)
        about = session.get_one(Interaction, body.completion_id, with_for_update=True)
        said = _said(session, about, body)
        session.add_all(said.new)
        for row in said.new:
            if row.name == PICK:
                add_picked(session, about, choice=body.choice, reviewer=row.actor or "anonymous")
            elif row.name == CORRECTION:
                add_corrected(session, about, choice=body.choice, text=row.text or "")
    return said


def _said(session: Session, about: Interaction, body: FeedbackBody) -> Said:
    history = feedback_history(session, about.id)
    rows = _rows(about, body)
    newest = {(row.name, None if row.name == PICK else row.choice, row.actor): row for row in history}
    under_id = [row for row in history if row.key is not None and row.key == body.id]
    if any(not any(_same(row, other) for row in rows) for other in under_id):
        raise ConflictError(f"Feedback id {body.id!r} was used for something else on this completion. Use a new one.")
    known = [*newest.values(), *under_id]
    kept = [next((other for other in known if _same(row, other)), row) for row in rows]
    return Said(kept, [row for row in kept if row in rows])


def _rows(about: Interaction, body: FeedbackBody) -> list[Feedback]:
    """One row for each thing that the request says."""
    value = True if body.name == PICK else body.value
    texts = [(name, text) for name, text in (("comment", body.comment), (CORRECTION, body.correction)) if text]
    if texts and about.content != KEPT:
        raise UserError("No words are kept of this completion (store=false, or deleted), so none about it either.")
    parts: list[tuple[str, bool | float | None, str | None]] = [(name, None, text) for name, text in texts]
    if value is not None:
        parts.insert(0, (body.name, value, None))
    if not parts:
        raise UserError("Feedback needs a value, a comment or a correction.")
    rows = [
        new_feedback(
            tenant=about.tenant,
            completion_id=about.id,
            name=name,
            value=value,
            text=text,
            source=body.source,
            actor=body.actor or body.user or about.user,
        )
        for name, value, text in parts
    ]
    for row in rows:
        row.choice, row.key = body.choice, body.id
    return rows


def rateable(session: Session, appliance: Appliance, completion_id: str, *, choice: int) -> Interaction:
    """The completion, once it is sure that it has the choice. Raises NotFoundError and UserError."""
    about = interaction(session, completion_id, tenant=appliance.tenant)
    choices = max(1, len(choices_of(about))) if about.content == KEPT else choice + 1
    if choice >= choices:
        raise UserError(f"choice {choice} does not exist: completion {about.id} has {choices}, from 0 on.")
    return about


def _same(row: Feedback, other: Feedback) -> bool:
    fields = ("name", "choice", "actor", "value", "score", "text", "source")
    return all(getattr(row, field) == getattr(other, field) for field in fields)
