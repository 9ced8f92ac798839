"""Real trainers on a tiny random base model, with learning rates large enough that every weight must move."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flywheel.adapter_files import publish_adapter, verify_adapter
from flywheel.base_model import base_model_hash, module_shapes
from flywheel.errors import UserError
from flywheel.statistics.preference_loss import dpo_loss
from retrain.freeze import SCHEMA, Row
from retrain.recipe import read_recipe, shipped_recipes
from retrain.run_folder import ADAPTER, Order

pytestmark = pytest.mark.filterwarnings("default")  # the training libraries warn about themselves

QUICK = {"learning_rate": 1e-2, "epochs": 6.0, "steps": None, "batch_size": 8}
MakeOrder = Callable[..., Order]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty-two rows, and four held back: "We open at nine." above a longer one."""
    folder = tmp_path_factory.mktemp("dataset")
    asked = [[{"role": "user", "content": f"When? {n}"}] for n in range(36)]
    rows = [
        Row(f"p{n}", f"c{n}", prompt, "We open at nine.", "Thanks for reaching out!") for n, prompt in enumerate(asked)
    ]
    for split, some in (("train", rows[:32]), ("validation", rows[32:])):
        pq.write_table(pa.Table.from_pylist([row.record() for row in some], schema=SCHEMA), folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="module")
def order_for(base_model: Path, dataset: Path) -> MakeOrder:
    def build(name: str, **overrides: Any) -> Order:
        plain = read_recipe(name, overrides={}, max_rank=16)
        quick: dict[str, Any] = {part: QUICK for part in ("sft", "dpo") if getattr(plain, part) is not None}
        quick["lora"] = {"r": 8, "alpha": 16}  # at a lower rank a random model learns nothing in so few steps
        recipe = read_recipe(name, overrides=quick | overrides, max_rank=16)
        prompts = pq.read_table(dataset / "validation.parquet")["prompt"].to_pylist()
        return Order(
            run_id="run-1", base_model=str(base_model), base_model_name="tiny", dataset=dataset, recipe=recipe,
            threads=1, prompts=prompts, max_new_tokens=24,
        )  # fmt: skip

    return build


@pytest.fixture(scope="module", params=shipped_recipes())
def trained(request: pytest.FixtureRequest, order_for: MakeOrder, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(order, folder, metrics, lines of progress) of each shipped recipe, trained for real."""
    from retrain.trainers import train_adapter

    order, folder = order_for(request.param), tmp_path_factory.mktemp("run")
    lines: list[dict[str, Any]] = []
    metrics = train_adapter(order, folder, lines.append)
    return order, folder, metrics, lines


def test_every_adapter_weight_moved(trained: Any, tmp_path: Path) -> None:
    import peft
    from safetensors.torch import load_file

    from retrain.generate import load_base, load_tokenizer
    from retrain.trainers import dpo_trainer, sft_trainer

    order, folder, _, _ = trained
    rows = pq.read_table(order.dataset / "train.parquet").to_pylist()
    first: Any = sft_trainer if order.recipe.sft else dpo_trainer
    untrained = first(order.recipe, load_base(order.base_model), load_tokenizer(order.base_model), rows, tmp_path).model
    start = peft.get_peft_model_state_dict(untrained)
    weights = load_file(folder / ADAPTER / "adapter_model.safetensors")
    assert weights.keys() == start.keys()
    assert [name for name, tensor in weights.items() if tensor.equal(start[name].to(tensor.dtype))] == []


def test_the_adapter_is_one_that_can_be_published_and_served(trained: Any, tmp_path: Path) -> None:
    order, folder, _, _ = trained
    digest = base_model_hash(order.base_model)
    name = publish_adapter(
        folder / ADAPTER, adapters_folder=tmp_path, kind="lora", manifest={"base_model_hash": digest}
    )  # fmt: skip
    shapes = module_shapes(order.base_model)
    verify_adapter(tmp_path / name, base_model_hash=digest, max_rank=16, shapes=shapes)


def test_the_folder_holds_no_second_adapter_and_no_path_of_this_machine(trained: Any) -> None:
    order, folder, _, _ = trained
    assert sorted(path.name for path in folder.iterdir()) == [ADAPTER]
    assert sorted(path.name for path in (folder / ADAPTER).iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((folder / ADAPTER / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert order.base_model not in json.dumps(config)


def test_answers_end_by_themselves_after_training_and_likelihoods_rise(trained: Any) -> None:
    from retrain.generate import outcomes_of

    order, folder, _, _ = trained
    lines: list[dict[str, Any]] = []
    outcomes = outcomes_of(order, folder, lines.append)
    assert [answer.finished for answer in outcomes.before] == [False] * 4
    assert [answer.finished for answer in outcomes.after] == [True] * 4
    assert all(answer.text.endswith("nine.") for answer in outcomes.after)
    assert all(a.chosen > b.chosen for a, b in zip(outcomes.validation_after, outcomes.validation_before, strict=True))
    assert all(len(probe["token_ids"]) == len(probe["log_probs"]) + 1 for probe in outcomes.probes)
    assert outcomes.probe_distance > 0.1
    assert lines[-1] == {"stage": "gate", "done": 8, "total": 8}


def test_progress_counts_every_step_and_metrics_name_each_trainer(trained: Any) -> None:
    order, _, metrics, lines = trained
    parts = [part for part in ("sft", "dpo") if getattr(order.recipe, part) is not None]
    assert [line["trainer"] for line in lines] == [part for part in parts for _ in range(24)]
    assert [line["done"] for line in lines] == list(range(1, 25)) * len(parts)
    assert metrics["rows"] == 32
    assert all(metrics[part]["total"] == 24 for part in parts)


def test_steps_count_instead_of_epochs(order_for: MakeOrder, tmp_path: Path) -> None:
    from retrain.trainers import train_adapter

    metrics = train_adapter(order_for("starter", dpo={"steps": 3}), tmp_path, lambda line: None)
    assert metrics["dpo"]["done"] == metrics["dpo"]["total"] == 3


def test_the_same_recipe_and_rows_give_the_same_bytes(order_for: MakeOrder, tmp_path: Path) -> None:
    from retrain.trainers import train_adapter

    order = order_for("dpo-sft", dpo=QUICK | {"epochs": 0.5})
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        train_adapter(order, tmp_path / name, lambda line: None)
    first, second = (
        (tmp_path / name / ADAPTER / "adapter_model.safetensors").read_bytes() for name in ("first", "second")
    )
    assert first == second


def test_the_preference_loss_is_the_published_formula(order_for: MakeOrder, tmp_path: Path) -> None:
    import torch

    from retrain.generate import likelihoods, load_base, load_tokenizer
    from retrain.trainers import dpo_trainer

    order = order_for("dpo-sft", dpo={"loss_type": ["sigmoid"], "loss_weights": None, "batch_size": 4})
    tokenizer = load_tokenizer(order.base_model)
    rows = pq.read_table(order.dataset / "validation.parquet").to_pylist()
    trainer: Any = dpo_trainer(order.recipe, load_base(order.base_model), tokenizer, rows, tmp_path)
    batch, model = next(iter(trainer.get_train_dataloader())), trainer.model.train(False)
    with torch.no_grad():
        untouched = float(trainer.compute_loss(model, batch))
        reference = likelihoods(model, tokenizer, rows)
        torch.manual_seed(1)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.5)
        tuned = likelihoods(model, tokenizer, rows)
        loss = float(trainer.compute_loss(model, batch))
    losses = [
        dpo_loss(
            0.1, policy_chosen=a.chosen, policy_rejected=a.rejected, reference_chosen=b.chosen,
            reference_rejected=b.rejected,
        )
        for a, b in zip(tuned, reference, strict=True)
    ]  # fmt: skip
    assert untouched == pytest.approx(math.log(2), abs=1e-6)
    assert abs(loss - untouched) > 0.01
    assert loss == pytest.approx(sum(losses) / len(losses), abs=1e-3)


def test_an_infinite_loss_ends_the_run_and_leaves_no_adapter(order_for: MakeOrder, tmp_path: Path) -> None:
    from retrain.trainers import train_adapter

    order = order_for("dpo-sft", dpo=QUICK | {"learning_rate": 1e30, "warmup": 0.0, "max_grad_norm": 1e30})
    with pytest.raises(
        UserError, match=r"Training stopped: \w+ is (nan|inf) at step .* Lower the recipe's learning_rate"
    ):
        train_adapter(order, tmp_path, lambda line: None)
    assert not (tmp_path / ADAPTER).exists()


def test_a_template_that_never_ends_an_answer_is_refused(base_model: Path) -> None:
    from retrain.generate import load_tokenizer
    from retrain.trainers import require_trained_end

    tokenizer = load_tokenizer(str(base_model))
    row = {"prompt": [{"role": "user", "content": "Hi"}], "chosen": [{"role": "assistant", "content": "Hello"}]}
    require_trained_end(row, tokenizer, {2})
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    with pytest.raises(UserError, match="never learn to stop"):
        require_trained_end(row, tokenizer, {2})
