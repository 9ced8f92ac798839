"""Real adapters for a real engine: small random weights, published files, a record, and probes that the engine itself
gave (where a trainer would have computed them).
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import numpy as np
from safetensors.numpy import save_file
from sqlalchemy import Engine as Database

from flywheel.adapter_files import publish_adapter
from flywheel.base_model import base_model_hash, module_shapes
from flywheel.database import writing
from flywheel.settings import Settings
from serving.engine import Engine
from tests.made_records import made_adapter

RANK = 4


def write_lora(base: Path, folder: Path, *, seed: int, scale: float = 0.5) -> None:
    """PEFT's two files, for q_proj and v_proj of every layer."""
    noise, tensors = np.random.default_rng(seed), {}
    for module, (outputs, inputs) in module_shapes(str(base)).items():
        if module.endswith(("q_proj", "v_proj")):
            key = f"base_model.model.{module}"
            tensors[f"{key}.lora_A.weight"] = (noise.normal(size=(RANK, inputs)) * scale).astype(np.float32)
            tensors[f"{key}.lora_B.weight"] = (noise.normal(size=(outputs, RANK)) * scale).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": ["q_proj", "v_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def publish_lora(settings: Settings, *, seed: int, scale: float = 0.5) -> str:
    """The files alone; returns the name."""
    base = Path(settings.base_model_path)
    with TemporaryDirectory() as scratch:
        write_lora(base, Path(scratch), seed=seed, scale=scale)
        manifest = {"base_model_hash": base_model_hash(str(base))}
        return publish_adapter(Path(scratch), adapters_folder=settings.adapters_folder, kind="lora", manifest=manifest)


def trained_adapter(settings: Settings, database: Database, *, seed: int, **values: Any) -> str:
    """Files, probes and record of an adapter that passed its gate; returns the name."""
    name = publish_lora(settings, seed=seed)
    probes = asyncio.run(_probes(settings.engine.urls[0], name, settings.adapters_folder / name))
    given: dict[str, Any] = {
        "base_model_hash": base_model_hash(settings.base_model_path),
        "manifest": {"probes": probes, "recipe": {"name": "dpo-sft"}},
    }
    with writing(database) as session:
        made_adapter(session, name, **(given | values))
    return name


async def _probes(url: str, name: str, folder: Path) -> list[dict[str, Any]]:
    async with aiohttp.ClientSession() as http:
        engine = Engine(url, http)
        token_ids = await engine.tokenize("How do I change my password? Open the settings and follow the steps.")
        await engine.load(name, folder)
        log_probs = await engine.score(name, token_ids)
        await engine.unload(name)
    return [{"token_ids": token_ids, "log_probs": log_probs}]


def opened(folder: Path, name: str) -> Path:
    """A file of a published adapter, made writable."""
    folder.chmod(0o755)
    (folder / name).chmod(0o644)
    return folder / name
