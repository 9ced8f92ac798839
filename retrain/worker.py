"""The worker: claims a run, takes it through freeze → train → gate → publish, and opens the experiment.

Invariants: each stage's result is persisted before the next begins; every write names this worker and renews the
lease, so a worker whose lease ran out, or whose run was cancelled, stops at its next write and ends its child process.
A run left by a dead worker is taken up again: what is finished (dataset version, trained adapter) is used, the stage
that was under way starts anew. After three deaths in one run it is failed, so that it cannot block the queue.
"""

from __future__ import annotations

import os
import socket
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import structlog
from sqlalchemy.engine import Engine
from sqlmodel import Session

from flywheel.audit import record_act
from flywheel.base_model import base_model_hash, resolve_base_model
from flywheel.database import now, reading, reason_of, writing
from flywheel.dataset_versions import DatasetVersion, dataset_version
from flywheel.errors import ConflictError, DatabaseTroubleError, FlywheelError
from flywheel.leases import release_lease, take_lease
from flywheel.merges import ASKED, FAILED, WRITTEN, merge_to_write, merged_folder, move_merge
from flywheel.messages import Message
from flywheel.parts import cpu_engine_installed, engine_dtype
from flywheel.promotions import live_adapter
from flywheel.runs import TrainingRun, add_event, claim_run, end_run, release_run, update_run
from flywheel.settings import Settings
from retrain.chat_tokens import ChatTokens
from retrain.child import run_child
from retrain.freeze import freeze
from retrain.gate import judge
from retrain.gate_prompts import GatePrompt, gate_prompts
from retrain.merge import merge_weights
from retrain.publish import challenge, publish_files, record_adapter
from retrain.recipe import Recipe, read_recipe
from retrain.run_folder import LOG, ORDER, Order, read_outcomes, trained_metrics, write_whole
from retrain.schedule import Schedule, queue_if_worthwhile

log = structlog.get_logger("flywheel.retrain")
MOST_ATTEMPTS = 3
MERGE_SECONDS = 900.0
"""After which a merge is taken up again whose worker is gone."""
VALIDATION_ANSWERS = 32
"""Validation prompts that are answered where there are no gate prompts: enough to see an adapter that is broken."""


class LostRunError(Exception):
    """The run was cancelled, or another worker has it."""


class StoppingError(Exception):
    """This process was asked to end."""


class Worker:
    """One process's claim on the queue. `stopping` is set by the signal handler."""

    def __init__(self, settings: Settings, database: Engine) -> None:
        self.settings, self.database = settings, database
        self.name = f"{socket.gethostname()}-{os.getpid()}"
        self.stopping = threading.Event()
        self.schedule = Schedule(settings.retrain.schedule, after=now())

    def work_forever(self) -> None:
        """Until `stopping` is set."""
        due = False
        while not self.stopping.is_set():
            try:
                due = self.schedule.is_due(now()) or due
                if due:
                    queue_if_worthwhile(self.database, self.settings)
                    due = False
                worked = self.work_once() or self.merge_once()
            except DatabaseTroubleError as error:  # a run that was under way waits for the end of its lease
                log.error("waiting for the database", reason=reason_of(error))
                worked = False
            if not worked:
                self.stopping.wait(self.settings.retrain.poll_seconds)

    def work_once(self) -> bool:
        """Take one run to its end. False when none waits."""
        with writing(self.database) as session:
            run = claim_run(session, worker=self.name)
        if run is None:
            return False
        log.info("run claimed", run=run.id, worker=self.name)
        try:
            self._turn(run)
        except LostRunError as error:
            log.warning("run given up", run=run.id, reason=str(error))
        except StoppingError:
            self._let_go(run)
        except DatabaseTroubleError:
            raise
        except Exception as error:  # noqa: BLE001  the run's outer frame: whatever went wrong is written into the run
            self._fail(run, error)
        return True

    def merge_once(self) -> bool:
        """Merge the champion into the base weights, where an operator has allowed it. False when nothing waits."""
        settings = self.settings
        with writing(self.database) as session:
            merge = merge_to_write(session, alias=settings.serving.alias)
            if merge is None or not take_lease(session, name=merge.id, holder=self.name, seconds=MERGE_SECONDS):
                return False
        state, trouble, dtype = WRITTEN, None, engine_dtype(settings, cpu=cpu_engine_installed())
        try:
            merge_weights(
                resolve_base_model(settings.base_model_path), settings.adapters_folder / merge.adapter,
                merged_folder(settings, merge.adapter), dtype=dtype, threads=settings.retrain.threads or 1,
            )  # fmt: skip
        except (FlywheelError, OSError) as error:
            state, trouble = FAILED, str(error)
        with writing(self.database) as session:
            move_merge(session, merge.id, expected=ASKED, state=state, trouble=trouble)
            release_lease(session, name=merge.id, holder=self.name)
        log.info("merge", merge=merge.id, adapter=merge.adapter, state=state, trouble=trouble)
        return True

    def _turn(self, run: TrainingRun) -> None:
        self._count_attempt(run)
        recipe = read_recipe(
            self.settings.retrain.recipe, overrides=run.recipe, max_rank=self.settings.engine.max_lora_rank
        )
        version = self._freeze(run, recipe)
        prompts = gate_prompts(self.settings)
        folder = self._train(run, recipe, version, prompts)
        if self._gate(run, folder, prompts):
            self._publish(run, folder)

    def _count_attempt(self, run: TrainingRun) -> None:
        attempts = int(run.metrics.get("attempts", 0)) + 1
        event = f"Taken up again by {self.name}." if attempts > 1 else f"Started by {self.name}."
        self._write(run, event, metrics=run.metrics | {"attempts": attempts})
        if attempts > MOST_ATTEMPTS:
            raise FlywheelError(
                f"The worker died {MOST_ATTEMPTS} times in this run, last in stage {run.stage}: given up."
            )

    def _freeze(self, run: TrainingRun, recipe: Recipe) -> DatasetVersion:
        if run.dataset is not None:
            with reading(self.database) as session:
                return dataset_version(session, run.dataset, tenant=run.tenant)
        self._write(run, stage="freeze", progress={})
        version = freeze(
            self.database, tenant=run.tenant, home=self.settings.home.resolve(), max_tokens=recipe.max_tokens,
            tokens=ChatTokens(self.settings.base_model_path), minimum_rows=self.settings.retrain.minimum_pairs,
        )  # fmt: skip
        event = (
            f"Dataset version {version.name}: {version.train_rows} training rows, {version.validation_rows} held back."
        )
        with writing(self.database) as session:
            details = {"run": run.id, "rows": version.train_rows + version.validation_rows}
            record_act(
                session, tenant=run.tenant, actor=run.requested_by, act="freeze", subject=version.name, details=details
            )
        self._write(run, event, dataset=version.name)
        return version

    def _train(self, run: TrainingRun, recipe: Recipe, version: DatasetVersion, prompts: list[GatePrompt]) -> Path:
        home = self.settings.home.resolve()
        folder, threads = home / "runs" / run.id, self.settings.retrain.threads or os.cpu_count() or 1
        folder.mkdir(parents=True, exist_ok=True)
        asked = [prompt.asked for prompt in prompts] or _validation_prompts(home / version.folder)
        order = Order(
            run_id=run.id, base_model=str(resolve_base_model(self.settings.base_model_path)),
            base_model_name=_published_name(self.settings.base_model), dataset=home / version.folder, recipe=recipe,
            threads=threads, prompts=asked,
        )  # fmt: skip
        write_whole(folder / ORDER, order.model_dump_json(indent=2))
        self._write(run, f"Recipe {recipe.name} on {threads} threads.", stage="train", progress={})
        run_child(folder, threads=threads, on_tick=lambda progress: self._tick(run, progress))
        metrics = run.metrics | {"training": trained_metrics(folder)}
        self._write(run, "Trained, and the gate's prompts are answered.", stage="gate", metrics=metrics)
        return folder

    def _tick(self, run: TrainingRun, progress: dict[str, Any]) -> None:
        if self.stopping.is_set():
            raise StoppingError
        self._write(run, stage=progress.get("stage", run.stage), progress=progress)

    def _gate(self, run: TrainingRun, folder: Path, prompts: list[GatePrompt]) -> bool:
        starter = self.settings.base_model == "starter" and bool(prompts)
        report = judge(prompts, read_outcomes(folder), has_preference=starter)
        if report["passed"]:
            self._write(run, f"Gate passed. {report['sentence']}", gate=report)
        else:
            self._write(run, f"Gate refused. {report['sentence']}", gate=report, state="refused")
        return bool(report["passed"])

    def _publish(self, run: TrainingRun, folder: Path) -> None:
        self._write(run, stage="publish", progress={})
        order, outcomes = Order.model_validate_json((folder / ORDER).read_text()), read_outcomes(folder)
        with reading(self.database) as session:
            base_hash = base_model_hash(self.settings.base_model_path)
            live = live_adapter(session, alias=run.alias, base_model_hash=base_hash)
        parent = live.name if live else None
        adapter = publish_files(self.settings, run, order=order, outcomes=outcomes, folder=folder, parent=parent)
        with writing(self.database) as session:
            fresh = record_adapter(session, run, adapter)
            self._renew(session, run, adapter=adapter.name)
            add_event(
                session, run.id, f"{adapter.name} published." if fresh else f"{adapter.name} was published before."
            )
        with writing(self.database) as session:
            sentence = challenge(session, self.settings, run, adapter=adapter)
            self._renew(session, run, state="succeeded")
            add_event(session, run.id, sentence)
        log.info("run succeeded", run=run.id, adapter=adapter.name, experiment=sentence)

    def _renew(self, session: Session, run: TrainingRun, **values: Any) -> None:
        """Every write of this worker passes here."""
        try:
            (end_run if "state" in values else update_run)(session, run.id, worker=self.name, **values)
        except ConflictError as error:
            raise LostRunError(str(error)) from error
        for name, value in values.items():
            setattr(run, name, value)

    def _write(self, run: TrainingRun, event: str | None = None, **values: Any) -> None:
        with writing(self.database) as session:
            self._renew(session, run, **values)
            if event:
                add_event(session, run.id, event)

    def _let_go(self, run: TrainingRun) -> None:
        """A run that is left in order does not count as an attempt."""
        with writing(self.database) as session:
            self._renew(session, run, metrics=run.metrics | {"attempts": run.metrics["attempts"] - 1})
            release_run(session, run.id, worker=self.name)
            add_event(session, run.id, f"{self.name} was asked to end and let go of the run.")
        log.info("run let go", run=run.id)

    def _fail(self, run: TrainingRun, error: Exception) -> None:
        said = str(error) if isinstance(error, FlywheelError) else f"{type(error).__name__}: {error}"
        folder = self.settings.home.resolve() / "runs" / run.id
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOG).open("a") as words:
            traceback.print_exception(error, file=words)
        log.error("run failed", run=run.id, error=said)
        with suppress(LostRunError):  # cancelled meanwhile: its end stands already
            self._write(run, f"Failed: {said}", state="failed", error=said)


def _published_name(base_model: str) -> str:
    """A name that says nothing about this machine: a folder counts by its last part."""
    return Path(base_model).name if Path(base_model).expanduser().is_dir() else base_model


def _validation_prompts(dataset: Path) -> list[list[Message]]:
    rows = pq.read_table(dataset / "validation.parquet", columns=["prompt"]).to_pylist()
    return [row["prompt"] for row in rows[:VALIDATION_ANSWERS]]
