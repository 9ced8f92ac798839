"""The identity adapter: a LoRA adapter whose B is zero, so that it changes nothing.

"No adapter" is served as this one, because an engine may answer requests for the bare base name with the weights of
whichever adapter it holds. Its bytes depend on the base model's shapes alone: the same base model gives the same name.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from flywheel.base_model import module_shapes
from flywheel.errors import UserError

RANK = 8
TARGETS = ("q_proj", "v_proj")


def write_identity_adapter(base: Path, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors for `base` into `folder`. Raises UserError."""
    shapes = module_shapes(str(base))
    modules = [name for name in sorted(shapes) if name.rpartition(".")[2] in TARGETS]
    if {name.rpartition(".")[2] for name in modules} != set(TARGETS):
        raise UserError(
            f"{base} cannot serve adapters: it has no linear layers named q_proj and v_proj. "
            "Choose a base model of a Llama-like architecture (Llama, Qwen, Mistral, Gemma, …)."
        )
    tensors: dict[str, np.ndarray] = {}
    for module in modules:
        outputs, inputs = shapes[module]
        key = f"base_model.model.{module}"
        tensors[f"{key}.lora_A.weight"] = np.full((RANK, inputs), inputs**-0.5, dtype=np.float32)
        tensors[f"{key}.lora_B.weight"] = np.zeros((outputs, RANK), dtype=np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,  # a path here would change the bytes, and with them the name
        "r": RANK,
        "lora_alpha": RANK,
        "lora_dropout": 0.0,
        "target_modules": list(TARGETS),
        "bias": "none",
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
