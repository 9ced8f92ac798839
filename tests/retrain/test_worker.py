"""The worker's stages on real records. Training for real is in `test_turn.py`; here the child's files are laid out."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Engine

import retrain.worker
from flywheel.adapter_files import MANIFEST, publish_adapter
from flywheel.adapters import Adapter, adapter
from flywheel.audit import audit_entries
from flywheel.base_model import base_model_hash
from flywheel.database import now, reading, writing
from flywheel.experiments import running_experiments
from flywheel.identity_adapter import write_identity_adapter
from flywheel.runs import TrainingRun, cancel_run, claim_run, queue_run, run_events, training_run
from flywheel.settings import Settings
from retrain.child import TrainingFailedError
from retrain.run_folder import ADAPTER, OUTCOMES, mark_trained, read_order, write_whole
from retrain.worker import Worker


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    """A base model's directory whose weights are only looked at, never loaded."""
    import numpy as np
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("base")
    for file in tokenizer_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    layers = {f"model.layers.0.self_attn.{part}.weight": np.ones((8, 8), np.float32) for part in ("q_proj", "v_proj")}
    save_file(layers, folder / "model.safetensors")
    return folder


@pytest.fixture
def settings(settings_for: Callable[..., Settings], base: Path) -> Settings:
    return settings_for(base)


@pytest.fixture
def worker(settings: Settings, records: Engine) -> Worker:
    return Worker(settings, records)


@pytest.fixture
def identity(records: Engine, settings: Settings, base: Path, tmp_path: Path) -> str:
    """What serving does at its first start: the identity adapter, published and recorded."""
    digest = base_model_hash(str(base))
    write_identity_adapter(base, tmp_path / "identity")
    given = {"base_model_hash": digest}
    name = publish_adapter(
        tmp_path / "identity", adapters_folder=settings.adapters_folder, kind="identity", manifest=given
    )  # fmt: skip
    manifest = json.loads((settings.adapters_folder / name / MANIFEST).read_text())
    with writing(records) as session:
        content = manifest["content_hash"]
        session.add(
            Adapter(name=name, content_hash=content, base_model_hash=digest, manifest=manifest, created_at=now())
        )  # fmt: skip
    return name


@pytest.fixture
def queued(records: Engine, twenty_pairs: list[str]) -> str:
    with writing(records) as session:
        return queue_run(session, tenant="default", alias="flywheel", recipe={}, requested_by="Ada").id


def lay_out(folder: Path, base: Path, *, answer: str = "It costs 3 euros [1].", nats: float = 5.0) -> None:
    """What a child process leaves behind; the adapter's bytes depend on `nats`."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    write_identity_adapter(base, folder / ADAPTER)
    file = folder / ADAPTER / "adapter_model.safetensors"
    save_file({name: tensor + np.float32(nats) for name, tensor in load_file(file).items()}, file)
    mark_trained(folder, {"rows": 18})
    count = len(read_order(folder).prompts)
    likely = {"chosen": -10.0, "rejected": -10.0, "chosen_tokens": 10}
    outcomes = {
        "before": [{"text": "It costs 3 euros.", "finished": True, "tokens": 6}] * count,
        "after": [{"text": answer, "finished": True, "tokens": 8}] * count,
        "validation_before": [likely],
        "validation_after": [likely | {"chosen": -10.0 + nats}],
        "probes": [{"token_ids": [1, 2], "log_probs": [-0.5]}],
        "probe_distance": 1.0,
    }
    write_whole(folder / OUTCOMES, json.dumps(outcomes))


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch, base: Path) -> Callable[..., None]:
    """Replaces the child process by one that lays out its files at once."""

    def replace(**values: Any) -> None:
        def run(folder: Path, *, threads: int, on_tick: Callable[[dict[str, Any]], None]) -> None:
            on_tick({"stage": "train", "done": 1, "total": 2, "loss": 0.5})
            lay_out(folder, base, **values)
            on_tick({"stage": "gate", "done": 1, "total": 1})

        monkeypatch.setattr(retrain.worker, "run_child", run)

    return replace


def found(records: Engine, run_id: str) -> TrainingRun:
    with reading(records) as session:
        return training_run(session, run_id, tenant="default")


def story(records: Engine, run_id: str) -> str:
    with reading(records) as session:
        return "\n".join(event.text for event in run_events(session, run_id))


def test_a_turn_ends_in_an_adapter_that_challenges_the_identity_adapter(
    worker: Worker, records: Engine, queued: str, identity: str, child: Callable[..., None], settings: Settings
) -> None:
    child()
    assert worker.work_once()
    run = found(records, queued)
    assert (run.state, run.error, run.stage) == ("succeeded", None, None)
    assert run.gate is not None
    assert run.gate["passed"]
    with reading(records) as session:
        [experiment] = running_experiments(session, alias="flywheel")
        published = adapter(session, run.adapter or "")
        acts = [entry.act for entry in audit_entries(session, tenant="default")]
    assert experiment is not None
    assert (experiment.champion, experiment.challenger) == (identity, run.adapter)
    assert (published.run_id, published.parent, published.gate) == (queued, identity, run.gate)
    assert published.manifest["recipe"]["name"] == "dpo-sft"
    assert published.manifest["probes"] == [{"token_ids": [1, 2], "log_probs": [-0.5]}]
    assert {"freeze", "publish", "open_experiment"} <= set(acts)
    card = (settings.adapters_folder / published.name / "README.md").read_text()
    assert "checks passed." in card
    assert settings.base_model not in card + json.dumps(published.manifest)


def test_the_resolved_recipe_is_kept_in_the_runs_folder(
    worker: Worker, records: Engine, twenty_pairs: list[str], child: Callable[..., None], home: Path
) -> None:
    child()
    with writing(records) as session:
        asked = {"name": "sft-then-dpo", "sft": {"epochs": 2.5}}
        run = queue_run(session, tenant="default", alias="flywheel", recipe=asked, requested_by="Ada")
    worker.work_once()
    recipe = read_order(home / "runs" / run.id).recipe
    assert (recipe.name, recipe.sft and recipe.sft.epochs, recipe.sft and recipe.sft.learning_rate) == (
        "sft-then-dpo",
        2.5,
        5e-4,
    )
    assert found(records, run.id).recipe == asked


def test_a_refused_gate_publishes_nothing_and_says_why(
    worker: Worker, records: Engine, queued: str, identity: str, child: Callable[..., None], settings: Settings
) -> None:
    child(answer="")
    worker.work_once()
    run = found(records, queued)
    assert (run.state, run.adapter) == ("refused", None)
    assert run.gate is not None
    assert run.gate["sentence"].startswith("Refused by whole")
    assert "Gate refused. Refused by whole" in story(records, queued)
    assert [path.name for path in settings.adapters_folder.iterdir()] == [identity]


def test_before_the_first_start_of_serving_the_adapter_waits_without_an_experiment(
    worker: Worker, records: Engine, queued: str, child: Callable[..., None]
) -> None:
    child()
    worker.work_once()
    assert found(records, queued).state == "succeeded"
    assert "nothing is live yet" in story(records, queued)


def test_a_second_turn_while_an_experiment_runs_publishes_and_says_so(
    worker: Worker, records: Engine, queued: str, identity: str, child: Callable[..., None]
) -> None:
    child()
    worker.work_once()
    child(nats=6.0)
    with writing(records) as session:
        second = queue_run(session, tenant="default", alias="flywheel", recipe={}, requested_by="Ada").id
    worker.work_once()
    assert found(records, second).state == "succeeded"
    assert found(records, second).adapter != found(records, queued).adapter
    assert found(records, second).dataset == found(records, queued).dataset
    assert "still runs" in story(records, second)


def test_the_same_bytes_again_are_the_same_adapter(
    worker: Worker, records: Engine, queued: str, child: Callable[..., None]
) -> None:
    child()
    worker.work_once()
    with writing(records) as session:
        second = queue_run(session, tenant="default", alias="flywheel", recipe={}, requested_by="Ada").id
    worker.work_once()
    assert found(records, second).adapter == found(records, queued).adapter
    assert "was published before" in story(records, second)


def test_a_failing_child_fails_the_run_with_its_own_words_and_the_worker_goes_on(
    worker: Worker, records: Engine, queued: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(folder: Path, **_: Any) -> None:
        raise TrainingFailedError("Training stopped: loss is nan at step 3 of dpo.")

    monkeypatch.setattr(retrain.worker, "run_child", run)
    assert worker.work_once()
    assert found(records, queued).error == "Training stopped: loss is nan at step 3 of dpo."
    assert found(records, queued).state == "failed"
    assert not worker.work_once()


def test_a_recipe_the_engine_cannot_serve_fails_the_run_before_anything_is_trained(
    worker: Worker, records: Engine, twenty_pairs: list[str]
) -> None:
    with writing(records) as session:
        run = queue_run(
            session, tenant="default", alias="flywheel", recipe={"lora": {"use_dora": True}}, requested_by="Ada"
        )
    worker.work_once()
    assert "DoRA" in (found(records, run.id).error or "")
    assert found(records, run.id).dataset is None


def test_a_cancelled_run_stops_at_the_next_tick_and_stays_cancelled(
    worker: Worker, records: Engine, queued: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def run(folder: Path, *, threads: int, on_tick: Callable[[dict[str, Any]], None]) -> None:
        with writing(records) as session:
            cancel_run(session, training_run(session, queued, tenant="default"), actor="Ada")
        on_tick({"stage": "train", "done": 1, "total": 2})
        seen.append("went on")

    monkeypatch.setattr(retrain.worker, "run_child", run)
    worker.work_once()
    assert found(records, queued).state == "cancelled"
    assert seen == []


def test_a_worker_that_is_asked_to_end_lets_go_and_the_next_takes_the_run_at_once(
    worker: Worker, records: Engine, queued: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(folder: Path, *, threads: int, on_tick: Callable[[dict[str, Any]], None]) -> None:
        worker.stopping.set()
        on_tick({"stage": "train", "done": 1, "total": 2})

    monkeypatch.setattr(retrain.worker, "run_child", run)
    worker.work_once()
    with writing(records) as session:
        taken = claim_run(session, worker="another")
    assert taken is not None
    assert (taken.id, taken.dataset is not None, taken.metrics["attempts"]) == (queued, True, 0)


def test_a_worker_whose_lease_ran_out_writes_no_more(
    worker: Worker, records: Engine, queued: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(folder: Path, *, threads: int, on_tick: Callable[[dict[str, Any]], None]) -> None:
        with writing(records) as session:
            held = session.get_one(TrainingRun, queued)
            held.leased_until = now() - timedelta(seconds=1)
            session.add(held)
        with writing(records) as session:
            claim_run(session, worker="another")
        on_tick({"stage": "train", "done": 1, "total": 2})

    monkeypatch.setattr(retrain.worker, "run_child", run)
    worker.work_once()
    run_now = found(records, queued)
    assert (run_now.state, run_now.leased_by, run_now.error) == ("running", "another", None)


def test_a_run_that_killed_its_worker_three_times_is_failed(
    worker: Worker, records: Engine, queued: str, child: Callable[..., None]
) -> None:
    with writing(records) as session:
        run = session.get_one(TrainingRun, queued)
        run.metrics, run.stage = {"attempts": 3}, "train"
        session.add(run)
    child()
    worker.work_once()
    assert found(records, queued).state == "failed"
    assert "died 3 times in this run, last in stage train" in (found(records, queued).error or "")
