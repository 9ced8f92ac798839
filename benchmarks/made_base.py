"""A base model of any size with random weights: for what is about its speed and not about its words."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from flywheel.base_model import DESCRIBING_FILES
from flywheel.settings import STARTER

HALF_A_BILLION = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "num_hidden_layers": 34,
}
"""Qwen2-0.5B's layers, ten more of them in place of its large vocabulary."""


def make_base_model(folder: Path, changes: dict[str, int]) -> None:
    """The starter's tokenizer and architecture, `changes` of its sizes."""
    folder.mkdir()
    for name in DESCRIBING_FILES:
        if (STARTER / name).is_file():
            shutil.copy(STARTER / name, folder)
    config = AutoConfig.from_pretrained(STARTER)
    config.update({**changes, "layer_types": ["full_attention"] * changes["num_hidden_layers"]})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
    made.save_pretrained(folder)
