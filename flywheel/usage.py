"""What answering costs, by alias and arm: latency percentiles, speed, errors, tokens and money, from interactions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from statistics import fmean, quantiles
from typing import Any, NamedTuple

from pydantic import BaseModel
from sqlalchemy import func, select
from sqlmodel import Session, col

from flywheel.feedback import RATED_BY, RATING, Feedback
from flywheel.interactions import OPEN, Interaction

MOST_ROWS = 100_000
PERCENTILES = (50, 95, 99)


class Prices(NamedTuple):
    """Per million tokens."""

    prompt: float
    completion: float


class Usage(BaseModel):
    """One alias and arm. Seconds are `{"p50", "p95", "p99"}`; none where nothing was measured."""

    alias: str
    arm: str | None
    chats: int
    error_rate: float
    """The share that failed, for whatever reason of ours or the engine's."""
    seconds: dict[str, float] | None
    """From the question to the end of the answer, finished ones."""
    first_token_seconds: dict[str, float] | None
    """Streamed ones."""
    prompt_tokens: int
    completion_tokens: int
    tokens_per_second: float | None
    """Of one answer on average, from question to end."""
    cost: float
    cost_per_chat: float
    rated_users: int = 0
    rating: float | None = None
    """Mean over users of what they rate (0 to 1): of the arm `holdout` it is what the base model alone would get."""


def usage(session: Session, *, tenant: str, since: datetime, prices: Prices) -> list[Usage]:
    """By alias and arm, the most used first; of the newest 100,000 closed interactions since then."""
    query = (
        select(
            col(Interaction.alias),
            col(Interaction.arm),
            col(Interaction.status),
            col(Interaction.asked_at),
            col(Interaction.first_token_at),
            col(Interaction.finished_at),
            col(Interaction.prompt_tokens),
            col(Interaction.completion_tokens),
        )
        .where(col(Interaction.tenant) == tenant, col(Interaction.asked_at) >= since, col(Interaction.status) != OPEN)
        .order_by(col(Interaction.asked_at).desc())
        .limit(MOST_ROWS)
    )
    groups: dict[tuple[str, str | None], list[Any]] = defaultdict(list)
    for row in session.execute(query):
        groups[row.alias, row.arm].append(row)
    ratings = _ratings(session, tenant=tenant, since=since)
    found = [
        _usage(alias, arm, rows, prices).model_copy(update=ratings.get((alias, arm), {}))
        for (alias, arm), rows in groups.items()
    ]
    return sorted(found, key=lambda one: -one.chats)


def _ratings(session: Session, *, tenant: str, since: datetime) -> dict[tuple[str, str | None], dict[str, Any]]:
    """{(alias, arm): rated users and their mean rating}, everybody's newest ratings, each user counting once."""
    asked = (col(Interaction.tenant) == tenant, col(Interaction.asked_at) >= since)
    newest = (
        select(func.max(col(Feedback.id)))
        .join(Interaction, col(Interaction.id) == col(Feedback.completion_id))
        .where(*asked, col(Feedback.name) == RATING, col(Feedback.source).in_(RATED_BY))
        .group_by(col(Feedback.completion_id), col(Feedback.choice), func.coalesce(col(Feedback.actor), ""))
    )
    query = (
        select(col(Interaction.alias), col(Interaction.arm), func.avg(Feedback.score))
        .join(Feedback, col(Feedback.completion_id) == col(Interaction.id))
        .where(*asked, col(Feedback.id).in_(newest))
        .group_by(col(Interaction.alias), col(Interaction.arm), col(Interaction.unit))
    )
    means: dict[tuple[str, str | None], list[float]] = defaultdict(list)
    for alias, arm, mean in session.execute(query):
        means[alias, arm].append(float(mean))
    return {key: {"rated_users": len(found), "rating": fmean(found)} for key, found in means.items()}


def _usage(alias: str, arm: str | None, rows: Sequence[Any], prices: Prices) -> Usage:
    done = [row for row in rows if row.status == "finished"]
    took = [(row.finished_at - row.asked_at).total_seconds() for row in done]
    first = [(row.first_token_at - row.asked_at).total_seconds() for row in rows if row.first_token_at is not None]
    prompt, completion = (
        sum(getattr(row, name) or 0 for row in rows) for name in ("prompt_tokens", "completion_tokens")
    )
    cost = (prompt * prices.prompt + completion * prices.completion) / 1e6
    return Usage(
        alias=alias,
        arm=arm,
        chats=len(rows),
        error_rate=sum(row.status == "failed" for row in rows) / len(rows),
        seconds=percentiles(took),
        first_token_seconds=percentiles(first),
        prompt_tokens=prompt,
        completion_tokens=completion,
        tokens_per_second=sum(row.completion_tokens or 0 for row in done) / sum(took) if sum(took) else None,
        cost=cost,
        cost_per_chat=cost / len(rows),
    )


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """p50, p95, p99 with linear interpolation; of one value, itself."""
    if not values:
        return None
    cuts = quantiles(values, n=100, method="inclusive") if len(values) > 1 else list(values) * 99
    return {f"p{percent}": cuts[percent - 1] for percent in PERCENTILES}
