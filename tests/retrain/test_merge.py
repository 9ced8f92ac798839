"""Merged weights say what the adapter says, and a merge that cannot be made says why."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine as Database

from benchmarks.made_lora import publish_lora
from flywheel.adapters import adapter
from flywheel.database import open_database, reading, writing
from flywheel.merges import FAILED, WRITTEN, Merge, allow_merge, merged_folder, newest_merge
from flywheel.promotions import Approval, promote
from flywheel.settings import STARTER, Settings, load_settings
from retrain.worker import Worker
from tests.made_records import ALIAS, TENANT, made_adapter, made_experiment


@pytest.fixture
def settings(tmp_path: Path, migrated_sqlite: Path) -> Settings:
    shutil.copy(migrated_sqlite, tmp_path / "flywheel.db")
    return load_settings(home=tmp_path)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """One kind is enough: the states are tested on both beside the record."""
    found = open_database(settings.resolved_database_url)
    yield found
    found.dispose()


def allowed(settings: Settings, database: Database) -> str:
    """An adapter with files is live and may be merged; its name."""
    name = publish_lora(settings, seed=1, scale=0.2)
    with writing(database) as session:
        identity = made_adapter(session, "identity-1")
        trial = made_experiment(
            session, champion=identity.name, challenger=made_adapter(session, name).name, verdict="SHIP"
        )
        promote(session, trial, live=identity, approval=Approval("olga", "better", trial.evidence_hash or ""))
        allow_merge(session, settings, tenant=TENANT, actor="olga", reason="faster")
        assert adapter(session, name).name == name
    return name


def newest(database: Database) -> Merge:
    with reading(database) as session:
        found = newest_merge(session, alias=ALIAS)
    assert found is not None
    return found


def test_merged_weights_are_the_adapter_to_the_last_digits(settings: Settings, database: Database) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = allowed(settings, database)
    leftover = merged_folder(settings, "lora-000000000000")
    leftover.mkdir(parents=True)
    assert Worker(settings, database).merge_once()
    assert newest(database).state == WRITTEN
    folder = merged_folder(settings, name)
    assert not leftover.exists()  # of an adapter that was live once
    tokens = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": "How do I change my password?"}]
    asked: Any = tokens.apply_chat_template(chat, return_tensors="pt", return_dict=True)
    base = AutoModelForCausalLM.from_pretrained(STARTER, dtype=torch.float32)
    merged = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    with torch.inference_mode():
        plain = base(**asked).logits
        expected = PeftModel.from_pretrained(base, settings.adapters_folder / name)(**asked).logits
        found = merged(**asked).logits
    assert (found - expected).abs().max() < 1e-3
    assert (found - plain).abs().max() > 0.1
    assert not Worker(settings, database).merge_once()


def test_a_merge_that_cannot_be_made_says_why(settings: Settings, database: Database) -> None:
    name = allowed(settings, database)
    folder = settings.adapters_folder / name
    folder.chmod(0o755)
    shutil.rmtree(folder)
    assert Worker(settings, database).merge_once()
    row = newest(database)
    assert row.state == FAILED
    assert (row.trouble or "").startswith(f"The weights of {name} cannot be merged: ")
    assert not merged_folder(settings, name).exists()
