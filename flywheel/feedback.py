"""Feedback: what somebody or something said about one answer. Append-only: changing one's mind adds a row.

`name` is the kind (`rating`, `comment`, `correction`, `pick`, or a metric's name); the newest of one actor for one name
counts. `score` is the value on a 0 to 1 scale, so that thumbs and stars can be compared: false 0, true 1, stars (n -
1) / 4.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, Index, Text, func
from sqlmodel import Field, Session, SQLModel, col, select

from flywheel.database import UtcTime, new_id, now
from flywheel.errors import UserError

RATING, PICK, CORRECTION = "rating", "pick", "correction"
RATED_BY = ("user", "simulated")
"""Sources whose ratings count: the people who were answered."""
SOURCES = ("user", "reviewer", "operator", "implicit", "simulated")


class Feedback(SQLModel, table=True):
    __tablename__ = "feedback"
    __table_args__ = (
        CheckConstraint("source IN ('user', 'reviewer', 'operator', 'implicit', 'simulated')", name="source"),
        CheckConstraint("score IS NULL OR (score >= 0 AND score <= 1)", name="score"),
        Index("ix_feedback_completion", "completion_id", "name"),
        Index("ix_feedback_key", "completion_id", "key", "name", unique=True),
    )

    id: str = Field(primary_key=True)
    tenant: str = "default"
    completion_id: str = Field(foreign_key="interaction.id", ondelete="CASCADE")
    choice: int = 0
    name: str
    value: float | None = None
    score: float | None = None
    text: str | None = Field(default=None, sa_type=Text)
    source: str = "user"
    actor: str | None = None
    key: str | None = None
    """The client's own id for what it sent: sent again, it is the same feedback."""
    created_at: datetime = Field(sa_type=UtcTime)


def score_of(value: bool | int | float) -> float:
    """A rating on a 0 to 1 scale: thumbs (bool) or stars (1 to 5). Raises UserError for anything else."""
    if isinstance(value, bool):
        return 1.0 if value else 0.0
    if 1 <= value <= 5:
        return (value - 1) / 4
    raise UserError(f"A rating is true, false, or a number of stars from 1 to 5, not {value!r}.")


def new_feedback(
    *,
    tenant: str,
    completion_id: str,
    name: str,
    value: bool | int | float | None,
    text: str | None,
    source: str,
    actor: str | None,
) -> Feedback:
    """A checked row, not yet stored. Raises UserError when it says nothing or its value or source is none we know."""
    if source not in SOURCES:
        raise UserError(f"source is one of {', '.join(SOURCES)}, not {source!r}.")
    if value is None and not text:
        raise UserError("Feedback needs a value, a comment or a correction.")
    score = score_of(value) if name == RATING and value is not None else None
    if name == RATING and value is None:
        raise UserError("A rating needs a value: true, false, or 1 to 5 stars.")
    return Feedback(
        id=new_id("fb"),
        tenant=tenant,
        completion_id=completion_id,
        name=name,
        text=text,
        source=source,
        actor=actor,
        value=None if value is None else float(value),
        score=score,
        created_at=now(),
    )


def feedback_history(session: Session, completion_id: str) -> list[Feedback]:
    """Everything ever said about one answer, oldest first."""
    query = select(Feedback).where(Feedback.completion_id == completion_id)
    return list(session.exec(query.order_by(col(Feedback.id))))


def newest_rating_ids(session: Session, *, completion_ids: list[str] | None = None) -> list[str]:
    """Ids of the ratings that count: the newest of each actor on each choice of each completion."""
    newest = (
        select(func.max(col(Feedback.id)))
        .where(Feedback.name == RATING)
        .group_by(col(Feedback.completion_id), col(Feedback.choice), func.coalesce(col(Feedback.actor), ""))
    )
    if completion_ids is not None:
        newest = newest.where(col(Feedback.completion_id).in_(completion_ids))
    return list(session.exec(newest))
