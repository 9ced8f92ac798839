from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flywheel.errors import UserError
from retrain.recipe import read_recipe, shipped_recipes


def read(**overrides: Any) -> Any:
    return read_recipe("dpo-sft", overrides=overrides, max_rank=16)


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_is_read_under_its_own_name(name: str) -> None:
    assert read_recipe(name, overrides={}, max_rank=16).name == name


def test_overrides_change_single_keys_and_leave_the_rest() -> None:
    plain, changed = read(), read(seed=7, dpo={"beta": 0.3})
    assert (changed.seed, changed.dpo.beta) == (7, 0.3)
    assert changed.dpo.learning_rate == plain.dpo.learning_rate


def test_a_run_may_name_another_recipe() -> None:
    assert read(name="sft-then-dpo").sft is not None


@pytest.mark.parametrize(
    ("lora", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"lora_bias": True}, "lora_bias"),
        ({"init_lora_weights": "pissa"}, "PiSSA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"r": 64}, "serves at most 16"),
        ({"target_modules": ["q_proj", "lm_head"]}, "lm_head"),
    ],
)
def test_what_the_engine_cannot_serve_is_refused_with_the_reason(lora: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        read(lora=lora)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"lernrate": 1}, "lernrate: is not a key of a recipe"),
        ({"dpo": {"loss_weights": [1.0]}}, "as many loss_weights"),
        ({"dpo": {"batch_size": 10, "rows_at_once": 4}}, "no multiple"),
        ({"dpo": {"loss_type": ["magic"]}}, "dpo.loss_type.0"),
        ({"name": "nothing-like-it"}, "No recipe 'nothing-like-it': give one of dpo-sft, sft-then-dpo, starter"),
    ],
)
def test_a_wrong_key_or_value_is_one_clear_line(overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        read(**overrides)
    assert "\n" not in str(caught.value)


def test_a_file_of_ones_own_is_a_recipe_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        "max_tokens = 64\n[lora]\nr = 4\nalpha = 4\n[sft]\nlearning_rate = 1e-3\nepochs = 1\nbatch_size = 2\n"
    )
    assert read_recipe(str(file), overrides={}, max_rank=16).name == "mine"
    file.write_text("max_tokens = = 64")
    with pytest.raises(UserError, match="not valid TOML"):
        read_recipe(str(file), overrides={}, max_rank=16)
