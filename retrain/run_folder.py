"""The folder of one run, FLYWHEEL_HOME/runs/RUN_ID: what the worker orders, and what its child process leaves there.

    run.json        the order: base model, dataset, resolved recipe, prompts to answer (written by the worker)
    train.log       what the libraries print
    adapter/        configuration and weights of the trained adapter
    trained.json    hashes of adapter/ and the training metrics: written last, so an adapter without it is unfinished
    outcomes.json   answers before and after, likelihoods of the validation split, probes (written by the child)

Every file but the log appears whole, by a rename. A stage that is found finished here is not run again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from flywheel.adapter_files import file_hash
from flywheel.messages import Message
from retrain.recipe import Recipe

ORDER, LOG, ADAPTER, TRAINED, OUTCOMES = "run.json", "train.log", "adapter", "trained.json", "outcomes.json"


class Order(BaseModel):
    """Everything the child process is told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run_id: str
    base_model: str
    """The directory that training loads."""
    base_model_name: str
    """What people call it: the only name that is published."""
    dataset: Path
    recipe: Recipe
    threads: int
    prompts: list[list[Message]]
    """Answered by the base model before, and by the adapter after."""
    max_new_tokens: int = 96


class Answer(BaseModel):
    """One greedy answer. `finished`: it ended by itself, within the limit."""

    text: str
    finished: bool
    tokens: int


class Likelihood(BaseModel):
    """Log-probabilities (sums over the answer's tokens, in nats) of one validation row."""

    chosen: float
    rejected: float
    chosen_tokens: int


class Outcomes(BaseModel):
    """What base model (`before`) and adapter (`after`) do with the same prompts, and the adapter's fingerprint."""

    before: list[Answer]
    after: list[Answer]
    validation_before: list[Likelihood]
    validation_after: list[Likelihood]
    probes: list[dict[str, Any]]
    """[{"token_ids", "log_probs"}]: log-probabilities of each token after the first."""
    probe_distance: float
    """Mean absolute difference of the probes' log-probabilities between adapter and base model."""


def write_whole(file: Path, content: str) -> None:
    """Write beside and rename, so that a reader never sees half a file."""
    scratch = file.with_name(f".{file.name}.new")
    scratch.write_text(content)
    scratch.rename(file)


def read_order(folder: Path) -> Order:
    return Order.model_validate_json((folder / ORDER).read_text())


def mark_trained(folder: Path, metrics: dict[str, Any]) -> None:
    """Say that `adapter/` is whole."""
    files = {file.name: file_hash(file) for file in sorted((folder / ADAPTER).iterdir())}
    write_whole(folder / TRAINED, json.dumps({"files": files, "metrics": metrics}, indent=2))


def trained_metrics(folder: Path) -> dict[str, Any] | None:
    """The metrics of a finished training whose files are still the same; None when there is nothing to reuse."""
    if not (folder / TRAINED).is_file():
        return None
    marker = json.loads((folder / TRAINED).read_text())
    whole = all(
        (folder / ADAPTER / name).is_file() and file_hash(folder / ADAPTER / name) == digest
        for name, digest in marker["files"].items()
    )
    return dict(marker["metrics"]) if whole else None


def read_outcomes(folder: Path) -> Outcomes:
    return Outcomes.model_validate_json((folder / OUTCOMES).read_text())
