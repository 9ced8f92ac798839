"""Who served at a moment: the champion that the ledger names, and the challenger who answered a share of the users.

The ledger says which adapter an alias stood for. That the base model itself was exchanged is not in it; of one answer,
the interaction says who spoke.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import or_
from sqlmodel import Session, col, select

from flywheel.adapters import Adapter
from flywheel.experiments import Experiment
from flywheel.promotions import Promotion, live_promotion


def who_served(session: Session, *, alias: str, at: datetime) -> dict[str, Any]:
    """{"alias", "adapter", "prompt", "epoch", "experiments"}; `adapter` is null before anything could serve."""
    row = live_promotion(session, alias=alias, at=at)
    trials = session.exec(
        select(Experiment)
        .where(Experiment.alias == alias, col(Experiment.created_at) <= at)
        .where(or_(col(Experiment.ended_at).is_(None), col(Experiment.ended_at) > at))
        .order_by(col(Experiment.id))
    )
    arms = {"champion", "champion_prompt", "challenger", "challenger_prompt"}
    shown = {"id", *arms, "participants", "traffic_share", "created_at", "ended_at"}
    return {
        "alias": alias,
        "adapter": row.adapter if row else _before_promotions(session, alias=alias, at=at),
        "prompt": row.prompt if row else None,
        "epoch": row.id if row else None,
        "experiments": [trial.model_dump(include=shown) for trial in trials],
    }


def _before_promotions(session: Session, *, alias: str, at: datetime) -> str | None:
    """The identity adapter: the one that the first promotion replaced, or the newest of that time."""
    first = select(Promotion.previous).where(Promotion.alias == alias).order_by(col(Promotion.position)).limit(1)
    newest = select(Adapter.name).where(col(Adapter.run_id).is_(None), col(Adapter.created_at) <= at)
    named = session.exec(newest.order_by(col(Adapter.created_at).desc())).all()
    replaced = session.exec(first).first()
    return replaced if replaced in named else next(iter(named), None)
