"""From a user forth to everything made from their words: what they asked and said, the pairs of it, the dataset
versions that hold these (to train on, or to validate), and the runs, adapters, experiments and promotions that came of
those.

A pair is theirs when it was made of their answer, or of an answer that they corrected. Everything is counted; of long
lists the newest are shown. Not covered: people who chat without a name, and words of theirs in somebody else's chat.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import or_
from sqlmodel import Session, SQLModel, col, func, select

from flywheel.adapters import Adapter
from flywheel.dataset_versions import DatasetRow, DatasetVersion
from flywheel.errors import NotFoundError
from flywheel.experiments import Experiment
from flywheel.feedback import CORRECTION, Feedback
from flywheel.interactions import Interaction
from flywheel.pairs import PreferencePair
from flywheel.promotions import Promotion
from flywheel.runs import TrainingRun

SHOWN: dict[str, set[str]] = {
    "interactions": {"id", "asked_at", "status", "content", "adapter", "conversation"},
    "feedback": {"completion_id", "name", "score", "source", "created_at"},
    "pairs": {"id", "completion_id", "state", "chosen", "created_at"},
    "datasets": {"name", "train_rows", "validation_rows", "created_at"},
    "runs": {"id", "state", "dataset", "adapter", "requested_by", "created_at"},
    "adapters": {"name", "run_id", "parent", "created_at"},
    "experiments": {"id", "champion", "challenger", "state", "created_at"},
    "promotions": {"id", "kind", "adapter", "actor", "reason", "created_at"},
}
"""{step: the fields that are shown}, in the order in which one is made of the other."""


def user_lineage(session: Session, user: str, *, tenant: str, limit: int = 50) -> dict[str, Any]:
    """{"user", "counts": {step: number}, step: [newest rows]}. Raises NotFoundError for somebody who never spoke."""
    steps = _steps(user, tenant)
    counts = {
        name: session.exec(select(func.count()).select_from(query.subquery())).one() for name, query in steps.items()
    }
    if not any(counts.values()):
        raise NotFoundError(f"Nobody called {user!r} has asked or rated anything here.")
    found = {name: _newest(session, query, SHOWN[name], limit) for name, query in steps.items()}
    for version in found["datasets"]:
        version["their_rows"] = _rows_in(session, version["name"], user, tenant)
    return {"user": user, "counts": counts, **found}


def _newest(session: Session, query: Any, fields: set[str], limit: int) -> list[dict[str, Any]]:
    rows: Sequence[SQLModel] = session.exec(query.limit(limit)).all()
    return [row.model_dump(include=fields) for row in rows]


def _rows_in(session: Session, dataset: str, user: str, tenant: str) -> dict[str, int]:
    """{split: how many of a dataset version's rows are theirs}."""
    query = select(DatasetRow.split, func.count()).where(
        DatasetRow.dataset == dataset, col(DatasetRow.pair_id).in_(_pair_ids(user, tenant))
    )
    return dict(session.exec(query.group_by(col(DatasetRow.split))).all())


def _pair_ids(user: str, tenant: str) -> Any:
    asked = select(Interaction.id).where(Interaction.tenant == tenant, Interaction.user == user)
    corrected = select(Feedback.completion_id).where(
        Feedback.tenant == tenant, Feedback.actor == user, Feedback.name == CORRECTION
    )
    about = col(PreferencePair.completion_id)
    return select(PreferencePair.id).where(PreferencePair.tenant == tenant, or_(about.in_(asked), about.in_(corrected)))


def _steps(user: str, tenant: str) -> dict[str, Any]:
    """{step: the query for all of it, newest first}."""
    asked = select(Interaction).where(Interaction.tenant == tenant, Interaction.user == user)
    asked_ids = select(Interaction.id).where(Interaction.tenant == tenant, Interaction.user == user)
    said = select(Feedback).where(
        Feedback.tenant == tenant, or_(col(Feedback.actor) == user, col(Feedback.completion_id).in_(asked_ids))
    )
    pair_ids = _pair_ids(user, tenant)
    held = col(DatasetVersion.name).in_(select(DatasetRow.dataset).where(col(DatasetRow.pair_id).in_(pair_ids)))
    trained = col(TrainingRun.dataset).in_(select(DatasetVersion.name).where(held))
    made = col(Adapter.run_id).in_(select(TrainingRun.id).where(trained))
    names = select(Adapter.name).where(made)
    tried = or_(col(Experiment.challenger).in_(names), col(Experiment.champion).in_(names))
    return {
        "interactions": asked.order_by(col(Interaction.id).desc()),
        "feedback": said.order_by(col(Feedback.id).desc()),
        "pairs": select(PreferencePair)
        .where(col(PreferencePair.id).in_(pair_ids))
        .order_by(col(PreferencePair.id).desc()),
        "datasets": select(DatasetVersion).where(held).order_by(col(DatasetVersion.created_at).desc()),
        "runs": select(TrainingRun).where(trained).order_by(col(TrainingRun.id).desc()),
        "adapters": select(Adapter).where(made).order_by(col(Adapter.created_at).desc()),
        "experiments": select(Experiment).where(tried).order_by(col(Experiment.id).desc()),
        "promotions": select(Promotion)
        .where(col(Promotion.adapter).in_(names))
        .order_by(col(Promotion.alias), col(Promotion.position).desc()),
    }
