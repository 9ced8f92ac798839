"""Lineage: from one answer back to the adapter that spoke, its run, its dataset version, and the pairs, reviewers and
ratings that shaped it. The way forth, from a user to everything made from their words, is `flywheel/user_lineage.py`.

Read from the records alone, each of which knows only earlier ones. Pairs are those of the training split, the first
few in full and all of them counted.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from sqlmodel import Session, col, func, select

from flywheel.adapters import Adapter
from flywheel.dataset_versions import DatasetRow, DatasetVersion
from flywheel.experiments import Experiment
from flywheel.feedback import RATING, Feedback
from flywheel.interactions import Interaction, interaction
from flywheel.messages import last_user_text
from flywheel.pairs import Judgment, PreferencePair
from flywheel.promotions import Promotion
from flywheel.prompt_versions import SHIPPED_WORDING, PromptVersion, prompt_view
from flywheel.runs import TrainingRun

SHOWN_PAIRS = 20


def lineage(session: Session, completion_id: str, *, tenant: str, limit: int = SHOWN_PAIRS) -> dict[str, Any]:
    """Everything behind one answer; null where a step does not exist (the identity adapter has no run).

    Raises NotFoundError for an unknown completion.
    """
    answer = interaction(session, completion_id, tenant=tenant)
    spoke = session.get(Adapter, answer.adapter) if answer.adapter else None
    trial = session.get(Experiment, answer.experiment_id) if answer.experiment_id else None
    promotion = _promotion(session, answer)
    return {
        "completion": answer.model_dump(),
        **adapter_lineage(session, spoke, limit=limit),
        "prompt": _prompt(session, answer.prompt_version),
        "experiment": trial.model_dump(exclude={"evidence"}) if trial else None,
        "promotion": promotion.model_dump(exclude={"evidence"}) if promotion else None,
    }


def adapter_lineage(session: Session, adapter: Adapter | None, *, limit: int = SHOWN_PAIRS) -> dict[str, Any]:
    """Everything behind one adapter, its recipe and parents included; null or empty where there is nothing."""
    run = session.get(TrainingRun, adapter.run_id) if adapter and adapter.run_id else None
    dataset = session.get(DatasetVersion, run.dataset) if run and run.dataset else None
    return {
        "adapter": adapter_view(adapter) if adapter else None,
        "run": run.model_dump() if run else None,
        "dataset": dataset.model_dump() if dataset else None,
        "parents": _parents(session, adapter),
        "pairs": _pairs(session, dataset.name, limit=limit) if dataset else [],
        "total": _pair_total(session, dataset.name) if dataset else 0,
    }


def adapter_view(adapter: Adapter) -> dict[str, Any]:
    """An adapter for people: the recipe it was made with, without the long lists of its manifest."""
    return adapter.model_dump(exclude={"manifest"}) | {"recipe": adapter.manifest.get("recipe")}


def _prompt(session: Session, version: str | None) -> dict[str, Any] | None:
    """The wording behind an answer; null for what was asked in the client's own words, and for one that an earlier
    release shipped."""
    if version == SHIPPED_WORDING.version:
        return prompt_view(session, None)
    return prompt_view(session, version) if version and session.get(PromptVersion, version) else None


def _promotion(session: Session, answer: Interaction) -> Promotion | None:
    """What made the variant that spoke live: the promotion of that epoch, or (in a trial) the one that came later.

    A prompt that is no row was shipped, by this release or an earlier one; an answer without any says nothing of it.
    """
    version = answer.prompt_version
    prompt = version if version and session.get(PromptVersion, version) else None
    epoch = session.get(Promotion, answer.epoch) if answer.epoch else None
    if epoch is not None and epoch.adapter == answer.adapter and (not version or epoch.prompt == prompt):
        return epoch
    moves = select(Promotion).where(Promotion.adapter == answer.adapter, Promotion.kind != "reject")
    if version:
        moves = moves.where(Promotion.prompt == prompt)
    return session.exec(moves.order_by(col(Promotion.position)).limit(1)).first()


def _parents(session: Session, adapter: Adapter | None) -> list[dict[str, Any]]:
    parents: list[dict[str, Any]] = []
    while adapter is not None and adapter.parent is not None:
        adapter = session.get_one(Adapter, adapter.parent)
        parents.append({"name": adapter.name, "run_id": adapter.run_id, "created_at": adapter.created_at})
    return parents


def _pair_total(session: Session, dataset: str) -> int:
    return session.exec(
        select(func.count()).select_from(DatasetRow).where(DatasetRow.dataset == dataset, DatasetRow.split == "train")
    ).one()


def _pairs(session: Session, dataset: str, *, limit: int) -> list[dict[str, Any]]:
    query = (
        select(PreferencePair)
        .join(DatasetRow, col(DatasetRow.pair_id) == col(PreferencePair.id))
        .where(DatasetRow.dataset == dataset, DatasetRow.split == "train")
        .order_by(col(PreferencePair.id))
        .limit(limit)
    )
    pairs = list(session.exec(query))
    judgments, ratings = defaultdict(list), defaultdict(list)
    for judgment in session.exec(select(Judgment).where(col(Judgment.pair_id).in_([pair.id for pair in pairs]))):
        judgments[judgment.pair_id].append(judgment.model_dump(include={"reviewer", "source", "verdict", "reason"}))
    rated = select(Feedback).where(
        Feedback.name == RATING, col(Feedback.completion_id).in_([pair.completion_id for pair in pairs])
    )
    for rating in session.exec(rated.order_by(col(Feedback.id))):
        ratings[rating.completion_id].append(rating.model_dump(include={"score", "actor", "source", "created_at"}))
    return [
        {
            "id": pair.id,
            "question": last_user_text(pair.prompt),
            "chosen": pair.a if pair.chosen == "a" else pair.b,
            "rejected": pair.b if pair.chosen == "a" else pair.a,
            "judgments": judgments[pair.id],
            "completion_id": pair.completion_id,
            "ratings": ratings[pair.completion_id],
        }
        for pair in pairs
    ]
