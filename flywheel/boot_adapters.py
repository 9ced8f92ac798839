"""Which adapters an engine begins with: the live one and the identity adapter, so that it answers as soon as it is up.

vLLM forgets at its end what it was told to load, and loads broken files without a word: so what it is started with is
verified first. Serving then compares the fingerprint, as for every adapter, before it asks that engine anything.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from flywheel.adapter_files import verify_adapter
from flywheel.adapters import identity_adapter
from flywheel.base_model import base_model_hash, module_shapes
from flywheel.database import database_exists, open_database, reading, reason_of
from flywheel.errors import DatabaseTroubleError, UserError
from flywheel.promotions import live_adapter
from flywheel.settings import Settings

log = logging.getLogger(__name__)


def boot_adapters(settings: Settings) -> list[Path]:
    """Their folders, the live adapter's first. One that cannot be had is left out, with a line in the log.

    Raises UserError when there is something wrong with the base model.
    """
    base, shapes = base_model_hash(settings.base_model_path), module_shapes(settings.base_model_path)
    folders = [settings.adapters_folder / name for name in _live_names(settings, base)]
    return [folder for folder in folders if _is_whole(folder, settings, base, shapes)]


def _live_names(settings: Settings, base: str) -> list[str]:
    url = settings.resolved_database_url
    if not database_exists(url):
        return []
    database = open_database(url, checkpoints=False)
    try:
        with reading(database) as session:
            live = live_adapter(session, alias=settings.serving.alias, base_model_hash=base)
            identity = identity_adapter(session, base_model_hash=base)
    except (SQLAlchemyError, DatabaseTroubleError) as error:
        log.warning("An engine starts without the live adapter: %s", reason_of(error))
        return []
    finally:
        database.dispose()
    return list(dict.fromkeys(found.name for found in (live, identity) if found))[: settings.engine.max_loras]


def _is_whole(folder: Path, settings: Settings, base: str, shapes: Mapping[str, tuple[int, int]]) -> bool:
    try:
        verify_adapter(folder, base_model_hash=base, max_rank=settings.engine.max_lora_rank, shapes=shapes)
    except UserError as error:
        log.warning("An engine starts without an adapter: %s", error)
        return False
    return True
