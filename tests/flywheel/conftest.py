"""A tiny base model on disk, without weights that mean anything: enough for hashes, shapes and adapters."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from flywheel.adapter_files import publish_adapter, verify_adapter
from flywheel.base_model import base_model_hash, module_shapes

HIDDEN, LAYERS, RANK = 16, 2, 4


@pytest.fixture
def tiny_base(tmp_path: Path) -> Path:
    """A base model's directory with two layers."""
    folder = tmp_path / "base"
    folder.mkdir()
    tensors: dict[str, np.ndarray] = {
        "model.embed_tokens.weight": np.ones((32, HIDDEN), np.float32),
        "model.norm.weight": np.ones(HIDDEN),
    }
    for layer in range(LAYERS):
        for name, rows in (("q_proj", HIDDEN), ("v_proj", HIDDEN // 2)):
            tensors[f"model.layers.{layer}.self_attn.{name}.weight"] = np.ones((rows, HIDDEN), np.float32)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architectures": ["Tiny"]}))
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def write_adapter(tiny_base: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes an adapter as PEFT saves it, not yet published."""

    def write(*, rank: int = RANK, dtype: type = np.float32, **config: object) -> Path:
        source = tmp_path / f"source-{len(list(tmp_path.iterdir()))}"
        source.mkdir()
        noise = np.random.default_rng(0)
        tensors: dict[str, np.ndarray] = {}
        for module, (rows, columns) in module_shapes(str(tiny_base)).items():
            if module.endswith("_proj"):
                tensors[f"base_model.model.{module}.lora_A.weight"] = noise.normal(size=(rank, columns)).astype(dtype)
                tensors[f"base_model.model.{module}.lora_B.weight"] = noise.normal(size=(rows, rank)).astype(dtype)
        save_file(tensors, source / "adapter_model.safetensors")
        whole = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]} | config
        (source / "adapter_config.json").write_text(json.dumps(whole))
        return source

    return write


@pytest.fixture
def published(write_adapter: Callable[..., Path], tiny_base: Path, tmp_path: Path) -> Path:
    """The folder of a whole, published adapter."""
    name = publish_adapter(
        write_adapter(),
        adapters_folder=tmp_path / "adapters",
        kind="lora",
        manifest={"base_model_hash": base_model_hash(str(tiny_base))},
    )
    return tmp_path / "adapters" / name


@pytest.fixture
def check(tiny_base: Path) -> Callable[[Path], dict[str, Any]]:
    """Verifies a folder against the tiny base model."""

    def verify(folder: Path, *, max_rank: int = 8) -> dict[str, Any]:
        hashed, shapes = base_model_hash(str(tiny_base)), module_shapes(str(tiny_base))
        return verify_adapter(folder, base_model_hash=hashed, max_rank=max_rank, shapes=shapes)

    return verify
