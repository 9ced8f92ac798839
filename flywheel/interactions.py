"""Interaction: one question, what was retrieved and routed for it, and what was answered.

The row is written by serving's writer: as `asked` before the first byte of the answer leaves, and once more when it is
over; a short answer in one piece is asked and over in one write. Its `id` is the completion id that clients see;
everything later (feedback, pairs, lineage) hangs on it.

    asked ─→ finished      the whole answer was produced
          ├→ cancelled     the client went away; the text holds what was sent
          ├→ failed        the engine or we could not answer; `error` says why
          └→ interrupted   the process died; closed on the next start, or by another serving

`content` says whether the row still holds words: `kept`, `withheld` (the client said store=false: counters only), or
`deleted` (`flywheel/erasure.py`). Without words there is nothing to review and nothing to train on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel
from sqlalchemy import CheckConstraint, Index, Text, or_, text, update
from sqlmodel import Field, Session, SQLModel, col, select

from flywheel.database import JsonOf, UtcTime, now
from flywheel.errors import NotFoundError
from flywheel.messages import Message

OPEN = "asked"
CLOSED = ("finished", "cancelled", "failed", "interrupted")
KEPT, WITHHELD, DELETED = "kept", "withheld", "deleted"


class Passage(BaseModel):
    """A chunk as it stood in a prompt. `number` is what the answer cites as [number]."""

    number: int
    chunk_id: str
    document: str
    section: str
    text: str
    score: float
    cited: bool = False


@dataclass(slots=True)
class Choice:
    """One answer of a completion, as the client got it: its message may hold tool calls beside words.

    No pydantic model, since every chat makes one of what it need not check.
    """

    index: int
    message: Message
    finish_reason: str | None = None


class Interaction(SQLModel, table=True):
    __tablename__ = "interaction"
    __table_args__ = (
        CheckConstraint("status IN ('asked', 'finished', 'cancelled', 'failed', 'interrupted')", name="status"),
        CheckConstraint("content IN ('kept', 'withheld', 'deleted')", name="content"),
        Index("ix_interaction_tenant_asked_at", "tenant", "asked_at"),
        Index("ix_interaction_conversation", "tenant", "conversation").ddl_if(dialect="postgresql"),
        Index(
            "ix_interaction_experiment",
            "experiment_id",
            sqlite_where=text("experiment_id IS NOT NULL"),
            postgresql_where=text("experiment_id IS NOT NULL"),
        ),
        Index(
            "ix_interaction_idempotency",
            "tenant",
            "idempotency_key",
            unique=True,
            sqlite_where=text("idempotency_key IS NOT NULL"),
            postgresql_where=text("idempotency_key IS NOT NULL"),
        ),
    )

    id: str = Field(primary_key=True)
    tenant: str = "default"
    request_id: str
    idempotency_key: str | None = None
    body_hash: str | None = None
    """Of the request's body, where the client gave a key: the same key with another body is refused."""
    user: str | None = None
    conversation: str
    unit: str
    """What an experiment assigns and counts: the user, or the conversation when there is no user."""
    alias: str
    adapter: str | None = None
    """The adapter that spoke; null when a fixed text answered."""
    epoch: str | None = None
    """The promotion that made the champion live when this was asked."""
    experiment_id: str | None = None
    arm: str | None = None
    intent: str | None = None
    route: str | None = None
    prompt_version: str | None = None
    index_version: str | None = None
    router_version: str | None = None
    messages: list[Message] = Field(sa_type=JsonOf(list[Message]))
    prompt: list[Message] | None = Field(default=None, sa_type=JsonOf(list[Message]))
    """What the engine was really asked, passages included."""
    passages: list[Passage] = Field(default_factory=list, sa_type=JsonOf(list[Passage]))
    parameters: dict[str, Any] = Field(default_factory=dict, sa_type=JsonOf(dict[str, Any]))
    serving: str | None = None
    """The process that answers: while the row is open, nobody else closes it as long as that one lives."""
    answer: str | None = Field(default=None, sa_type=Text)
    """The words of choice 0."""
    answer_words: int | None = None
    """Words of choice 0, a tool call counting as one. Stays when the words themselves go."""
    choices: list[Choice] | None = Field(default=None, sa_type=JsonOf(list[Choice]))
    """Every choice whole, where there is more to keep than the words of one."""
    client_metadata: dict[str, str] = Field(default_factory=dict, sa_type=JsonOf(dict[str, str]))
    content: str = Field(default=KEPT, sa_column_kwargs={"server_default": KEPT})
    status: str = OPEN
    finish_reason: str | None = None
    error: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    asked_at: datetime = Field(sa_type=UtcTime)
    first_token_at: datetime | None = Field(default=None, sa_type=UtcTime)
    finished_at: datetime | None = Field(default=None, sa_type=UtcTime)
    answer_seconds: float | None = None
    """From the question to the answer's end; of answers that were produced whole."""
    first_token_seconds: float | None = None
    """From the question to the first byte of a streamed answer."""


def interaction(session: Session, completion_id: str, *, tenant: str) -> Interaction:
    """The interaction behind a completion id. Raises NotFoundError, also when it belongs to another tenant."""
    found = session.get(Interaction, completion_id)
    if found is None or found.tenant != tenant:
        raise NotFoundError(f"No completion {completion_id!r} is known here. Use the id that the chat answer carried.")
    return found


def latest_interactions(
    session: Session, *, tenant: str, limit: int = 50, before: str | None = None
) -> list[Interaction]:
    """Newest first; `before` is the last id of the page above (keyset paging)."""
    query = select(Interaction).where(Interaction.tenant == tenant)
    if before is not None:
        query = query.where(col(Interaction.id) < before)
    return list(session.exec(query.order_by(col(Interaction.id).desc()).limit(limit)))


def choices_of(row: Interaction) -> list[Choice]:
    """Every answer of a completion; none while it is open or when its words are gone."""
    if row.choices is not None:
        return row.choices
    if row.answer is None:
        return []
    return [Choice(index=0, message={"role": "assistant", "content": row.answer}, finish_reason=row.finish_reason)]


def stored_completions(
    session: Session,
    *,
    tenant: str,
    limit: int,
    after: str | None = None,
    newest_first: bool = False,
    alias: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> list[Interaction]:
    """Finished completions with their words, by age; `after` is the last id of the page before (keyset paging)."""
    key = col(Interaction.id)
    query = select(Interaction).where(
        Interaction.tenant == tenant, Interaction.status == "finished", Interaction.content == KEPT
    )
    if alias is not None:
        query = query.where(Interaction.alias == alias)
    for name, value in (metadata or {}).items():
        query = query.where(col(Interaction.client_metadata)[name].as_string() == value)
    if after is not None:
        query = query.where(key < after if newest_first else key > after)
    return list(session.exec(query.order_by(key.desc() if newest_first else key).limit(limit)))


def close_interrupted(session: Session, *, alive: Collection[str] = ()) -> int:
    """Close every row that a dead process left open: all but those of servings that are `alive`. Returns how many."""
    closed = session.execute(
        update(Interaction)
        .where(
            col(Interaction.status) == OPEN,
            or_(col(Interaction.serving).is_(None), col(Interaction.serving).not_in(alive)),
        )
        .values(status="interrupted", finished_at=now(), error="The process ended before the answer was complete.")
    )
    return int(closed.rowcount)  # type: ignore[attr-defined]
