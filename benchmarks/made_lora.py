"""Adapters made in a moment: PEFT's two files with random numbers in them, for what is not about their words."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from flywheel.adapter_files import publish_adapter
from flywheel.base_model import base_model_hash, module_shapes
from flywheel.settings import Settings

RANK = 4
TARGETS = ("q_proj", "v_proj")


def write_lora(
    base: Path, folder: Path, *, seed: int, scale: float = 0.5, rank: int = RANK, targets: tuple[str, ...] = TARGETS
) -> None:
    """PEFT's two files, for these modules of every layer."""
    noise, tensors = np.random.default_rng(seed), {}
    for module, (outputs, inputs) in module_shapes(str(base)).items():
        if module.endswith(targets):
            key = f"base_model.model.{module}"
            tensors[f"{key}.lora_A.weight"] = (noise.normal(size=(rank, inputs)) * scale).astype(np.float32)
            tensors[f"{key}.lora_B.weight"] = (noise.normal(size=(outputs, rank)) * scale).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": list(targets)}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def publish_lora(
    settings: Settings,
    *,
    seed: int,
    scale: float = 0.5,
    rank: int = RANK,
    targets: tuple[str, ...] = TARGETS,
    **manifest: Any,
) -> str:
    """Its files in the appliance's folder; returns the name."""
    base = Path(settings.base_model_path)
    with TemporaryDirectory() as scratch:
        write_lora(base, Path(scratch), seed=seed, scale=scale, rank=rank, targets=targets)
        whole = {"base_model_hash": base_model_hash(str(base)), **manifest}
        return publish_adapter(Path(scratch), adapters_folder=settings.adapters_folder, kind="lora", manifest=whole)
