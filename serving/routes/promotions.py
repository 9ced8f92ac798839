"""/v1/promotions: the operator's decision, and the ledger of who served when.

The alias flips in the transaction that writes the ledger's row; requests see it as soon as this route has read the
database back, before it answers. Engines are never waited for here: what is not ready everywhere is not promoted.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict
from sqlmodel import Session

from flywheel.adapters import Adapter, adapter
from flywheel.approvals import approvals_view
from flywheel.database import reading, writing
from flywheel.errors import ConflictError, UnavailableError
from flywheel.experiments import Experiment, experiment, running_experiments
from flywheel.promotions import (
    Approval,
    Promotion,
    approve,
    earlier_variants,
    live_adapter,
    live_promotion,
    promotions,
    reject,
    roll_back,
)
from flywheel.prompt_versions import prompt_named
from flywheel.variants import Variant
from flywheel.who_served import who_served
from serving.appliance import Appliance, appliance_of

router = APIRouter(tags=["promotions"])
Holder = Annotated[Appliance, Depends(appliance_of)]


class NotLoadedError(UnavailableError):
    """The adapter to be rolled back to is not ready everywhere."""

    def __init__(self, message: str, adapter: str) -> None:
        super().__init__(message)
        self.adapter = adapter


class PromotionBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    act: Literal["promote", "reject", "roll_back"]
    actor: str = ""
    """Who decides; without it, the key's name."""
    reason: str = ""
    experiment_id: str | None = None
    """promote and reject: without it, the running experiment, where there is one alone."""
    evidence_hash: str = ""
    """promote: the hash of the evidence that the operator looked at."""
    adapter: str | None = None
    """roll_back: an adapter that was live, with the prompt it had then; without one, what was live before."""
    prompt: str | None = None
    """roll_back: a prompt version that was live, or `shipped`; for that adapter, or else for the live one."""
    override: bool = False


@router.post("/v1/promotions")
async def decide(body: PromotionBody, appliance: Holder, response: Response) -> dict[str, Any]:
    """Promote, reject or roll back. 412 with `error.missing` when a promotion lacks something; 202 when an approval is
    kept and another person's is needed (`promotion.approvers`)."""
    try:
        done = await asyncio.to_thread(_act, appliance, body)
    except NotLoadedError as error:
        await asyncio.to_thread(appliance.live.ask_for, error.adapter)
        raise
    if isinstance(done, Experiment):
        response.status_code = 202
        return await asyncio.to_thread(_waiting, appliance, done)
    await appliance.live.refresh()
    return done.model_dump(exclude={"evidence"})


def _waiting(appliance: Appliance, trial: Experiment) -> dict[str, Any]:
    with reading(appliance.database) as session:
        approvals = approvals_view(session, trial, appliance.settings.promotion)
    variant = {"adapter": trial.challenger, "prompt": trial.challenger_prompt, "previous_prompt": trial.champion_prompt}
    shown = {"experiment_id": trial.id, **variant, "evidence_hash": trial.evidence_hash}
    return {"object": "approval", "kind": "approve", **shown, "approvals": approvals}


@router.get("/v1/promotions")
def ledger(
    appliance: Holder, limit: Annotated[int, Query(ge=1, le=500)] = 50, at: datetime | None = None
) -> dict[str, Any]:
    """Who is live, and every decision, newest first. With `at`, who served at that moment (UTC where it names no zone),
    and the ledger as it stood then."""
    alias, live = appliance.settings.serving.alias, appliance.live.live_view()
    if at is not None and at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    with reading(appliance.database) as session:
        rows = promotions(session, alias=alias, limit=limit, at=at)
        if at is not None:
            live = who_served(session, alias=alias, at=at) | {"at": at}
    return {"live": live, "data": [row.model_dump(exclude={"evidence"}) for row in rows]}


def _act(appliance: Appliance, body: PromotionBody) -> Promotion | Experiment:
    """The ledger's new row; the experiment when an approval waits for another person's."""
    alias, who = appliance.settings.serving.alias, appliance.acting(body.actor)
    with writing(appliance.database) as session:
        live = _live(appliance, session)
        if body.act == "roll_back":
            return _roll_back(appliance, session, body, live=live, who=who)
        trial = _experiment(session, body, tenant=appliance.tenant, alias=alias)
        if body.act == "reject":
            return reject(session, trial, live=live, actor=who, reason=body.reason)
        approval = Approval(who, body.reason, body.evidence_hash, body.override)
        not_ready, rules = appliance.live.not_ready(trial.challenger), appliance.settings.promotion
        return approve(session, trial, live=live, approval=approval, not_ready=not_ready, rules=rules) or trial


def _live(appliance: Appliance, session: Session) -> Adapter:
    base_model = appliance.live.base_model
    live = base_model and live_adapter(session, alias=appliance.settings.serving.alias, base_model_hash=base_model.hash)
    if not live:
        raise UnavailableError("No adapter is live yet: the appliance is starting. Try again in a moment.")
    return live


def _experiment(session: Session, body: PromotionBody, *, tenant: str, alias: str) -> Experiment:
    if body.experiment_id is not None:
        return experiment(session, body.experiment_id, tenant=tenant)
    running = running_experiments(session, alias=alias)
    if not running:
        raise ConflictError(f"No experiment runs for {alias!r}: there is nothing to decide.")
    if len(running) > 1:
        names = ", ".join(one.id for one in running)
        raise ConflictError(f"Several experiments run for {alias!r}: say which with experiment_id ({names}).")
    return running[0]


def _roll_back(appliance: Appliance, session: Session, body: PromotionBody, *, live: Adapter, who: str) -> Promotion:
    alias = appliance.settings.serving.alias
    target = _back_to(session, body, alias=alias, live=live)
    row = roll_back(
        session,
        tenant=appliance.tenant,
        alias=alias,
        target=target,
        live=live,
        actor=who,
        reason=body.reason,
    )
    not_ready = appliance.live.not_ready(target.adapter)
    if not_ready:
        raise NotLoadedError(
            f"Not rolled back yet: {'; '.join(not_ready)}. It is being loaded: try again in a moment.", target.adapter
        )
    return row


def _back_to(session: Session, body: PromotionBody, *, alias: str, live: Adapter) -> Variant:
    """The variant that a rollback asks for."""
    last = live_promotion(session, alias=alias)
    if body.adapter is None and body.prompt is None:
        if last is None:
            raise ConflictError(f"Nothing was ever promoted for {alias!r}: there is nothing to roll back.")
        return Variant(last.previous, last.previous_prompt)
    name = adapter(session, body.adapter).name if body.adapter is not None else live.name
    if body.prompt is not None:
        return Variant(name, prompt_named(session, body.prompt))
    earlier = (one for one in earlier_variants(session, alias=alias) if one.adapter == name)
    return next(earlier, Variant(name, last.prompt if last else None))
