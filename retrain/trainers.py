"""The training itself: TRL's SFTTrainer and DPOTrainer on one LoRA adapter, from the base model.

Data in: the train split of a dataset version, conversational preference rows, never cut (`max_length=None`: the freeze
dropped what is too long). Data out: `adapter/` with configuration and weights. Invariants: the token that ends an
answer is trained; a loss or gradient that is not finite ends the run and leaves no adapter; the base model's weights
are never changed. Not covered: checkpoints (an interrupted training starts anew), continuing an earlier adapter.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from time import monotonic
from typing import Any

import pyarrow.parquet as pq
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import (
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from flywheel.errors import UserError
from retrain.generate import Report, load_base, load_tokenizer, stop_ids, token_ids
from retrain.recipe import Recipe, TrainerRecipe
from retrain.run_folder import ADAPTER, Order


class Progress(TrainerCallback):
    """Reports every step, and stops a training whose numbers are no longer numbers."""

    def __init__(self, report: Report, *, trainer: str) -> None:
        self.report, self.trainer, self.started = report, trainer, monotonic()
        self.last: dict[str, Any] = {}

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:  # fmt: skip
        logs: dict[str, Any] = kwargs.get("logs") or {}
        for name in ("loss", "grad_norm"):
            if name in logs and not math.isfinite(logs[name]):
                raise UserError(
                    f"Training stopped: {name} is {logs[name]} at step {state.global_step} of {self.trainer}. "
                    "Lower the recipe's learning_rate."
                )
        if "loss" in logs:
            seconds = monotonic() - self.started
            left = seconds / state.global_step * (state.max_steps - state.global_step)
            self.last = {"trainer": self.trainer, "done": state.global_step, "total": state.max_steps} | {
                name.rpartition("/")[2] if name == "rewards/accuracies" else name: round(float(logs[name]), 5)
                for name in ("loss", "grad_norm", "rewards/accuracies", "mean_token_accuracy")
                if name in logs
            }
            self.report(self.last | {"seconds": round(seconds, 1), "seconds_left": round(left, 1)})


def train_adapter(order: Order, folder: Path, report: Report) -> dict[str, Any]:
    """Train as the recipe says, save `folder/adapter`, and return the metrics. Raises UserError."""
    recipe, started = order.recipe, monotonic()
    tokenizer = load_tokenizer(order.base_model)
    base = load_base(order.base_model)
    rows = pq.read_table(order.dataset / "train.parquet").to_pylist()
    require_trained_end(rows[0], tokenizer, stop_ids(base, tokenizer))
    model: Any = base
    metrics: dict[str, Any] = {"rows": len(rows)}
    for name, build in (("sft", sft_trainer), ("dpo", dpo_trainer)):
        if getattr(recipe, name) is not None:
            trainer = build(recipe, model, tokenizer, rows, folder)
            metrics[name] = _run(trainer, name, report)
            model = trainer.model
    _save(model, folder / ADAPTER, base_model_name=order.base_model_name)
    shutil.rmtree(folder / "trainer", ignore_errors=True)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return metrics | {"seconds": round(monotonic() - started, 1), "world_size": world, "device": device}


def require_trained_end(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, stops: set[int]) -> None:
    """Refuse a chat template whose rendered answers hold no stop token: the adapter would never learn to end one."""
    prompt = token_ids(tokenizer, row["prompt"], add_generation_prompt=True)
    whole = token_ids(tokenizer, row["prompt"] + row["chosen"], add_generation_prompt=False)
    if not stops & set(whole[len(prompt) :]):
        raise UserError(
            "The base model's chat template does not end an answer with a stop token, so an adapter would never learn "
            "to stop: use a template that writes the eos token after each assistant message."
        )  # fmt: skip


def lora_config(recipe: Recipe) -> LoraConfig:
    lora = recipe.lora
    return LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=lora.target_modules,
        bias="none", task_type="CAUSAL_LM",
    )  # fmt: skip


def _arguments(recipe: Recipe, part: TrainerRecipe, *, rows: int, folder: Path) -> dict[str, Any]:
    at_once = part.rows_at_once or part.batch_size
    steps = part.steps or math.ceil(math.ceil(rows / part.batch_size) * part.epochs)
    gpu = torch.cuda.is_available()
    return {
        "output_dir": str(folder / "trainer"), "seed": recipe.seed, "learning_rate": part.learning_rate,
        "num_train_epochs": part.epochs, "max_steps": part.steps or -1, "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": part.batch_size // at_once, "warmup_steps": round(part.warmup * steps),
        "lr_scheduler_type": part.schedule, "weight_decay": part.weight_decay, "max_grad_norm": part.max_grad_norm,
        "bf16": gpu, "use_cpu": not gpu, "gradient_checkpointing": False, "max_length": None,
        "logging_steps": 1, "logging_nan_inf_filter": False, "disable_tqdm": True, "report_to": [],
        "save_strategy": "no", "dataloader_pin_memory": gpu,
    }  # fmt: skip


def sft_trainer(
    recipe: Recipe, model: Any, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]], folder: Path
) -> SFTTrainer:
    """Puts a new adapter on the base model."""
    assert recipe.sft is not None
    examples = Dataset.from_list([{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows])
    config = SFTConfig(completion_only_loss=True, **_arguments(recipe, recipe.sft, rows=len(rows), folder=folder))
    return SFTTrainer(
        model, args=config, train_dataset=examples, processing_class=tokenizer, peft_config=lora_config(recipe)
    )  # fmt: skip


def dpo_trainer(
    recipe: Recipe, model: Any, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]], folder: Path
) -> DPOTrainer:
    """Continues the adapter of the step before, a copy of it as reference; else a new one against the base model."""
    assert recipe.dpo is not None
    dpo, fresh = recipe.dpo, not isinstance(model, PeftModel)
    examples = Dataset.from_list([{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows])
    config = DPOConfig(
        beta=dpo.beta, loss_type=list(dpo.loss_type), loss_weights=dpo.loss_weights,
        **_arguments(recipe, dpo, rows=len(rows), folder=folder),
    )  # fmt: skip
    return DPOTrainer(
        model, args=config, train_dataset=examples, processing_class=tokenizer,
        peft_config=lora_config(recipe) if fresh else None,
    )  # fmt: skip


def _run(trainer: SFTTrainer | DPOTrainer, name: str, report: Report) -> dict[str, Any]:
    progress = Progress(report, trainer=name)
    trainer.add_callback(progress)
    result = trainer.train()
    return progress.last | {
        "mean_loss": round(result.training_loss, 5),
        "seconds": round(monotonic() - progress.started, 1),
    }


def _save(model: PeftModel, folder: Path, *, base_model_name: str) -> None:
    """Weights and configuration alone; the configuration names the base model, not a path of this machine."""
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(str(folder), selected_adapters=["default"])
    shutil.rmtree(folder / "ref", ignore_errors=True)  # DPOTrainer's frozen copy of an adapter it was given
    (folder / "README.md").unlink(missing_ok=True)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text()) | {"base_model_name_or_path": base_model_name}
    config["target_modules"] = sorted(config["target_modules"])  # a set in PEFT: its order differs between processes
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
