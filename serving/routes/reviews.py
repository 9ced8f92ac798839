"""/v1/reviews, /v1/judgments and /v1/pairs: two answers side by side, blind, one verdict each.

What a reviewer is shown tells nothing about which text was the given answer. `GET /v1/reviews/next` holds the pair for
that reviewer for five minutes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from flywheel.database import reading, writing
from flywheel.interactions import interaction
from flywheel.messages import last_user_text
from flywheel.pairs import judge, latest_pairs, lease_next, pair_counts, preference_pair
from serving.appliance import Appliance, appliance_of
from serving.candidates import Refill, refill

router = APIRouter(tags=["reviews"])
Holder = Annotated[Appliance, Depends(appliance_of)]


class RefillBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rated: Literal["low", "any"] = "low"
    """`any` takes well rated answers too: against worse ones they teach as much."""
    below: float = Field(default=0.5, gt=0, le=1)
    """What a low rating is."""
    limit: int = Field(default=50, ge=1, le=1000)
    candidates: int = Field(default=2, ge=1, le=8)
    temperature: float = Field(default=0.9, gt=0, le=2)


class JudgmentBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    pair_id: str
    verdict: str
    reviewer: str = ""
    """Who judges; without it, the key's name."""
    source: str = "person"
    reason: str | None = None


@router.post("/v1/reviews/refill")
async def refill_queue(body: RefillBody, appliance: Holder) -> dict[str, int]:
    """Have the live adapter answer low-rated (or all rated) prompts afresh, and queue the pairs."""
    below = body.below if body.rated == "low" else None
    return await refill(appliance, Refill(below, body.limit, body.candidates, body.temperature))


@router.get("/v1/reviews/next")
def next_review(appliance: Holder, reviewer: str = "") -> dict[str, Any]:
    """The next pair for this reviewer, or null when none waits."""
    tenant, who = appliance.tenant, appliance.acting(reviewer)
    with writing(appliance.database) as session:
        pair = lease_next(session, tenant=tenant, reviewer=who)
        counts = pair_counts(session, tenant=tenant)
        asked = interaction(session, pair.completion_id, tenant=tenant) if pair else None
    shown = None
    if pair and asked:
        shown = pair.model_dump(include={"id", "prompt", "a", "b", "created_at"}) | {
            "question": last_user_text(asked.messages),
            "passages": [passage.model_dump(exclude={"cited"}) for passage in asked.passages],
        }
    return {"pair": shown, "counts": counts}


@router.post("/v1/judgments")
def add_judgment(body: JudgmentBody, appliance: Holder) -> dict[str, Any]:
    """Record a verdict. The same one again changes nothing; another one by the same reviewer is refused (409)."""
    tenant = appliance.tenant
    with writing(appliance.database) as session:
        pair = preference_pair(session, body.pair_id, tenant=tenant)
        judgment = judge(
            session, pair, reviewer=appliance.acting(body.reviewer), **body.model_dump(exclude={"pair_id", "reviewer"})
        )
        session.flush()
        return judgment.model_dump() | {"counts": pair_counts(session, tenant=tenant)}


@router.get("/v1/pairs")
def list_pairs(
    appliance: Holder, state: str | None = None, limit: Annotated[int, Query(ge=1, le=500)] = 50
) -> dict[str, Any]:
    """Newest first, of one state or of all."""
    tenant = appliance.tenant
    with reading(appliance.database) as session:
        rows = latest_pairs(session, tenant=tenant, state=state, limit=limit)
        counts = pair_counts(session, tenant=tenant)
    return {"data": [row.model_dump() for row in rows], "counts": counts}
