"""Publish: a trained adapter that passed the gate becomes an immutable folder, a record, and a challenger.

Invariant: the record, its audit entry and the run's adapter are written in one transaction, after the files are on
disk; publishing the same bytes again changes nothing. The model card is part of the content, so it holds neither times
nor machine paths. An adapter is always trained from the base model on all decided pairs; its `parent` is the adapter
that was live while those pairs were collected.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from sqlmodel import Session

from flywheel.adapter_files import CARD, MANIFEST, publish_adapter
from flywheel.adapters import Adapter
from flywheel.audit import record_act
from flywheel.base_model import base_model_hash
from flywheel.database import now
from flywheel.experiment_plan import make_plan
from flywheel.experiments import open_experiment, running_experiments
from flywheel.promotions import live_adapter, live_prompt
from flywheel.runs import TrainingRun
from flywheel.settings import Settings
from flywheel.variants import Variant
from retrain.recipe import Recipe
from retrain.run_folder import ADAPTER, Order, Outcomes


def publish_files(
    settings: Settings, run: TrainingRun, *, order: Order, outcomes: Outcomes, folder: Path, parent: str | None
) -> Adapter:
    """Write the adapter's folder and return its record, not yet stored."""
    base_hash = base_model_hash(settings.base_model_path)
    (folder / ADAPTER / CARD).write_text(model_card(order, dataset=run.dataset or "", gate=run.gate or {}))
    manifest: dict[str, Any] = {
        "base_model": order.base_model_name, "base_model_hash": base_hash, "parent": parent,
        "started_from": "base model",
        "recipe": order.recipe.model_dump(mode="json"), "run_id": run.id, "dataset": run.dataset,
        "probes": outcomes.probes, "probe_distance": outcomes.probe_distance,
    }  # fmt: skip
    name = publish_adapter(folder / ADAPTER, adapters_folder=settings.adapters_folder, kind="lora", manifest=manifest)
    written = json.loads((settings.adapters_folder / name / MANIFEST).read_text())
    return Adapter(
        name=name, content_hash=written["content_hash"], base_model_hash=base_hash, run_id=run.id, parent=parent,
        manifest=written, gate=run.gate, created_at=now(),
    )  # fmt: skip


def record_adapter(session: Session, run: TrainingRun, adapter: Adapter) -> bool:
    """Store the record and the audit entry. False when the same content was published before."""
    if session.get(Adapter, adapter.name) is not None:
        return False
    session.add(adapter)
    session.flush()
    details = {"run": run.id, "dataset": run.dataset, "content_hash": adapter.content_hash}
    record_act(session, tenant=run.tenant, actor=run.requested_by, act="publish", subject=adapter.name, details=details)
    return True


def challenge(session: Session, settings: Settings, run: TrainingRun, *, adapter: Adapter) -> str:
    """Open an experiment against the live adapter, with the live prompt in both arms, unless one runs. Returns what
    happened, as one sentence."""
    live = live_adapter(session, alias=run.alias, base_model_hash=adapter.base_model_hash)
    champion = live.name if live else None
    if champion is None:
        return "No experiment was opened: nothing is live yet. Start serving, then open one by hand."
    if champion == adapter.name:
        return f"No experiment was opened: {champion} is live already."
    for running in running_experiments(session, alias=run.alias):
        return f"No experiment was opened: {running.id} still runs. Promote or reject its challenger first."
    prompt = live_prompt(session, alias=run.alias)
    opened = open_experiment(
        session, tenant=run.tenant, alias=run.alias,
        champion=Variant(champion, prompt), challenger=Variant(adapter.name, prompt),
        plan=make_plan(settings.retrain, {}), actor=run.requested_by,
    )  # fmt: skip
    return f"Experiment {opened.id} opened: {champion} against {adapter.name}, {opened.share:.0%} of the users."


def model_card(order: Order, *, dataset: str, gate: dict[str, Any]) -> str:
    """Hugging Face's format: what it is, how it was trained, what the gate measured."""
    front = {
        "library_name": "peft",
        "base_model": order.base_model_name,
        "tags": ["lora", "trl", *_trainers(order.recipe)],
    }
    checks = "\n".join(f"- {check['sentence']}" for check in gate.get("checks", []))
    return (
        f"---\n{yaml.safe_dump(front, sort_keys=True)}---\n# LoRA adapter for {order.base_model_name}\n\n"
        f"Trained from the base model with the recipe `{order.recipe.name}` on dataset version `{dataset}`"
        f" (preference pairs from this appliance's own use).\n\n## Gate\n\n{gate.get('sentence', '')}\n\n{checks}\n\n"
        f"## Recipe\n\n```json\n{order.recipe.model_dump_json(indent=2, exclude_none=True)}\n```\n"
    )


def _trainers(recipe: Recipe) -> list[str]:
    return [name for name in ("sft", "dpo") if getattr(recipe, name) is not None]
