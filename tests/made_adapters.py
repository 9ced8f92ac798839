"""Real adapters for a real engine: small random weights, published files, a record, and probes that the engine itself
gave (where a trainer would have computed them).
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from sqlalchemy import Engine as Database

from benchmarks.made_lora import publish_lora
from flywheel.base_model import base_model_hash
from flywheel.database import writing
from flywheel.settings import Settings
from serving.engine import Engine
from tests.made_records import made_adapter


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
    engine = Engine(url)
    token_ids = await engine.tokenize("How do I change my password? Open the settings and follow the steps.")
    await engine.load(name, folder)
    log_probs = await engine.score(name, token_ids)
    await engine.unload(name)
    engine.close()
    return [{"token_ids": token_ids, "log_probs": log_probs}]


def opened(folder: Path, name: str) -> Path:
    """A file of a published adapter, made writable."""
    folder.chmod(0o755)
    (folder / name).chmod(0o644)
    return folder / name
