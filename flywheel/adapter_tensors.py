"""What stands in an adapter's configuration and weights: only what an engine can serve, exactly and finite.

Tensors are read without a tensor library: the header names them, numpy maps the bytes, and bfloat16 is judged by its
bits. Checked: the options, the rank, the exact set of tensors and their shapes against the base model, no NaN or
infinity, and that a trained adapter changes something while the identity adapter does not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flywheel.base_model import read_header
from flywheel.errors import UserError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
UNSERVABLE = {
    "use_dora": "DoRA",
    "lora_bias": "lora_bias",
    "modules_to_save": "modules_to_save",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "alora_invocation_tokens": "activated LoRA",
    "layer_replication": "layer_replication",
    "trainable_token_indices": "trainable_token_indices",
    "target_parameters": "target_parameters",
    "rank_pattern": "rank_pattern",
    "alpha_pattern": "alpha_pattern",
    "layers_to_transform": "layers_to_transform",
    "exclude_modules": "exclude_modules",
    "fan_in_fan_out": "fan_in_fan_out",
}
"""Options under which an engine refuses the adapter, or serves something else than was trained."""
PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Values of init_lora_weights that leave the base model's own weights alone (PiSSA, OLoRA, LoftQ and CorDA do not)."""


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file of an adapter. Raises UserError."""
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise UserError(f"{file.name} of adapter {file.parent.name} is not valid JSON: restore it.") from error
    if not isinstance(content, dict):
        raise UserError(f"{file.name} of adapter {file.parent.name} is not a JSON object: restore it.")
    return content


def check_config(folder: Path, *, max_rank: int) -> dict[str, Any]:
    """The configuration, when an engine started with `max_rank` can serve it. Raises UserError."""
    config = read_json(folder / CONFIG)
    used = [words for option, words in UNSERVABLE.items() if config.get(option)]
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none":
        used.append(f"peft_type {config.get('peft_type')} with bias {config.get('bias')}")
    if config.get("init_lora_weights") not in PLAIN_STARTS:
        used.append(f"init_lora_weights={config['init_lora_weights']!r}")
    if used:
        raise UserError(f"Adapter {folder.name} uses {', '.join(used)}, which the engine cannot serve: train without.")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or not 0 < rank <= max_rank:
        raise UserError(f"Adapter {folder.name} has rank {rank}, the engine serves 1 to {max_rank}: train it smaller.")
    if not isinstance(alpha, int | float) or not 0 < alpha < float("inf"):
        raise UserError(f"Adapter {folder.name} has lora_alpha {alpha}: it must be a number above zero.")
    return config


def check_tensors(
    folder: Path, *, config: dict[str, Any], shapes: Mapping[str, tuple[int, int]], identity: bool
) -> None:
    """Compare the weights with what `config` promises for a base model of these `shapes`. Raises UserError."""
    header = read_header(folder / WEIGHTS)
    expected = expected_tensors(config, shapes)
    if not expected:
        raise UserError(f"Adapter {folder.name} targets {config.get('target_modules')}, which the base model lacks.")
    odd = sorted(set(header) ^ set(expected))
    if odd:
        kind = "lacks" if odd[0] in expected else "has, without a target for it,"
        raise UserError(f"Adapter {folder.name} {kind} the tensor {odd[0]} ({len(odd)} in all): publish it anew.")
    largest = {"lora_A": 0.0, "lora_B": 0.0}
    for name, values in _tensors(folder / WEIGHTS, header).items():
        if tuple(header[name]["shape"]) != expected[name]:
            raise UserError(
                f"{name} of adapter {folder.name} has shape {header[name]['shape']}, not {list(expected[name])}: "
                "it was made for another base model or rank."
            )
        if not np.isfinite(values).all():
            raise UserError(f"{name} of adapter {folder.name} holds NaN or infinity: the training went wrong.")
        part = name.split(".")[-2]
        largest[part] = max(largest[part], float(np.abs(values).max()))
    if identity != (largest["lora_B"] == 0) or largest["lora_A"] == 0:
        said = "changes answers, although it is the identity adapter" if identity else "changes nothing: all zeros"
        raise UserError(f"Adapter {folder.name} {said}. Publish it anew.")


def expected_tensors(config: dict[str, Any], shapes: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """{tensor: shape} of A (rank × inputs) and B (outputs × rank) for every module that `target_modules` names."""
    targets, rank = config.get("target_modules"), config["r"]
    if isinstance(targets, str):
        pattern = re.compile(targets)
        modules = [name for name in shapes if pattern.fullmatch(name)]
    else:
        endings = tuple(f".{target}" for target in targets or ())
        modules = [name for name in shapes if f".{name}".endswith(endings)]
    tensors = {}
    for name in modules:
        tensors[f"{PREFIX}{name}.lora_A.weight"] = (rank, shapes[name][1])
        tensors[f"{PREFIX}{name}.lora_B.weight"] = (shapes[name][0], rank)
    return tensors


def _tensors(file: Path, header: dict[str, dict[str, Any]]) -> dict[str, np.ndarray]:
    data = np.memmap(file, dtype=np.uint8, mode="r")
    start = 8 + int.from_bytes(bytes(data[:8]), "little")
    tensors = {}
    for name, tensor in header.items():
        begin, end = tensor["data_offsets"]
        raw = np.array(data[start + begin : start + end])
        if tensor["dtype"] == "BF16":  # the upper half of a float32
            values = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
        elif tensor["dtype"] in ("F16", "F32"):
            values = raw.view("<f2" if tensor["dtype"] == "F16" else "<f4")
        else:
            raise UserError(f"{name} of {file.parent.name} is stored as {tensor['dtype']}: use F32, F16 or BF16.")
        if values.size != np.prod(tensor["shape"]):
            raise UserError(f"{name} of {file.parent.name} has more or fewer numbers than its shape: publish it anew.")
        tensors[name] = values
    return tensors
