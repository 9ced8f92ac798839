"""A recipe: everything that decides what is trained, but the base model and the dataset version.

Shipped ones stand in `retrain/recipes/NAME.toml`. A run may override single keys; the resolved recipe is kept in the
run's folder and in the adapter's manifest. What an engine could not serve afterwards (DoRA, lora_bias, PiSSA,
modules_to_save, a rank above the engine's) is refused when the recipe is read, not after an hour of training.
Not covered: full fine-tuning, continuing from an earlier adapter (every run starts at the base model).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flywheel.errors import UserError

SHIPPED = Path(__file__).parent / "recipes"
UNSERVABLE = {
    "use_dora": "DoRA",
    "dora": "DoRA",
    "lora_bias": "lora_bias",
    "bias": "a trained bias",
    "modules_to_save": "modules_to_save",
    "init_lora_weights": "another start than LoRA's own (PiSSA, OLoRA, LoftQ change the base model's weights)",
    "pissa": "PiSSA",
    "trainable_token_indices": "trainable_token_indices",
    "target_parameters": "target_parameters",
}
"""Keys of PEFT that the engine refuses, or serves as something else than was trained."""
LOSSES = Literal["sigmoid", "sigmoid_norm", "hinge", "ipo", "robust", "apo_zero", "apo_down", "sft"]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LoraRecipe(Part):
    """The adapter's shape."""

    r: int = Field(ge=1)
    alpha: int = Field(ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: Literal["all-linear"] | list[str] = "all-linear"


class TrainerRecipe(Part):
    """What both trainers need."""

    learning_rate: float = Field(gt=0)
    epochs: float = Field(gt=0)
    steps: int | None = Field(default=None, ge=1)
    """Instead of as many as the epochs make: then an adapter moves as far on few rows as on many."""
    batch_size: int = Field(ge=1)
    """Rows in one step, over all processes."""
    rows_at_once: int | None = Field(default=None, ge=1)
    """Rows in memory at a time; a step then accumulates. Without it, the whole step."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps."""
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "cosine"
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _rows_divide_the_step(self) -> TrainerRecipe:
        if self.rows_at_once and self.batch_size % self.rows_at_once:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of rows_at_once {self.rows_at_once}")
        return self


class SftRecipe(TrainerRecipe):
    """Supervised training on the chosen answers."""


class DpoRecipe(TrainerRecipe):
    """Direct preference optimisation; `sft` among the losses keeps the chosen answers likely."""

    beta: float = Field(default=0.1, gt=0)
    loss_type: list[LOSSES] = ["sigmoid"]
    loss_weights: list[float] | None = None

    @model_validator(mode="after")
    def _one_weight_per_loss(self) -> DpoRecipe:
        if self.loss_weights is not None and len(self.loss_weights) != len(self.loss_type):
            raise ValueError(f"{len(self.loss_type)} losses need as many loss_weights, not {len(self.loss_weights)}")
        return self


class Recipe(Part):
    """SFT first, then DPO, or one of the two."""

    name: str
    description: str = ""
    seed: int = 0
    max_tokens: int = Field(ge=16)
    """Prompt and answer together; longer rows are dropped when the dataset version is frozen, never cut."""
    lora: LoraRecipe
    sft: SftRecipe | None = None
    dpo: DpoRecipe | None = None

    @model_validator(mode="after")
    def _trains_something(self) -> Recipe:
        if self.sft is None and self.dpo is None:
            raise ValueError("a recipe has a table [sft], [dpo], or both")
        return self


def shipped_recipes() -> list[str]:
    """The names of the recipes that come with the project."""
    return sorted(file.stem for file in SHIPPED.glob("*.toml"))


def read_recipe(name_or_path: str, *, overrides: Mapping[str, Any], max_rank: int) -> Recipe:
    """The resolved recipe. `overrides` may name another recipe in `name`. Raises UserError with one line."""
    asked = str(overrides.get("name") or name_or_path)
    file = SHIPPED / f"{asked}.toml" if asked in shipped_recipes() else Path(asked)
    if not file.is_file():
        raise UserError(f"No recipe {asked!r}: give one of {', '.join(shipped_recipes())}, or the path of a TOML file.")
    try:
        values = _merge(tomllib.loads(file.read_text()), {key: overrides[key] for key in overrides if key != "name"})
        _refuse_unservable(values.get("lora"), name=file.stem)
        recipe = Recipe.model_validate({"name": file.stem} | values)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"Recipe {file} is not valid TOML: {error}. Mend the file.") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the recipe"
        unknown = "is not a key of a recipe: remove it" if first["type"] == "extra_forbidden" else first["msg"]
        raise UserError(f"Recipe {file.stem}: {place}: {unknown}.") from error
    _refuse_large(recipe, max_rank=max_rank)
    return recipe


def _merge(base: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in overrides.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _refuse_unservable(lora: Any, *, name: str) -> None:
    used = sorted(UNSERVABLE[key] for key in UNSERVABLE if isinstance(lora, dict) and key in lora)
    if used:
        raise UserError(f"Recipe {name} asks for {used[0]}, which the engine cannot serve: remove it from [lora].")


def _refuse_large(recipe: Recipe, *, max_rank: int) -> None:
    if recipe.lora.r > max_rank:
        raise UserError(
            f"Recipe {recipe.name} asks for rank {recipe.lora.r}, but the engine serves at most {max_rank}: lower "
            "lora.r, or raise engine.max_lora_rank and restart the engine."
        )
    heads = {"lm_head", "embed_tokens"} & set(recipe.lora.target_modules)
    if isinstance(recipe.lora.target_modules, list) and heads:
        raise UserError(
            f"Recipe {recipe.name} adapts {sorted(heads)[0]}, which the trainer would ignore: remove it "
            "from lora.target_modules."
        )
