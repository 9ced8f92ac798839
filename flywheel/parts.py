"""What the appliance consists of: the command, address and health check of each process, from the settings.

The engine's flags are facts about vLLM (docs/decisions.md tells why each is there); everything else is `python -m
PACKAGE`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import urlsplit

from flywheel.base_model import resolve_base_model
from flywheel.boot_adapters import boot_adapters
from flywheel.merges import merged_folder
from flywheel.processes import Part
from flywheel.settings import Settings

ENGINE_ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "75",
    "HF_HUB_OFFLINE": "1",
}
CPU_ENGINE_ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""The first lets the "uni" executor stand. Without the second vLLM pins its threads to cores that others need, too."""
ENGINE_MODEL_NAME = "base"
"""The bare base model's name in the engine. Nobody asks for it: "no adapter" is the identity adapter."""

ENGINE, MERGED_ENGINE = "engine", "merged-engine"
"""How the names of the parts begin that hold adapters, and of those that hold merged weights."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def cpu_engine_installed() -> bool:
    """Whether the engine of this environment is vLLM's CPU build."""
    try:
        return bool(distribution("vllm-cpu"))
    except PackageNotFoundError:
        return False


def engine_command(
    settings: Settings, *, cpu: bool, url: str | None = None, adapters: Sequence[Path] = ()
) -> list[str]:
    """How vLLM is started at `url` (the first one), on a CPU or else on GPUs, holding `adapters` from the first moment.

    The operator's own arguments come last and so prevail.
    """
    engine, weights = settings.engine, resolve_base_model(settings.base_model_path)
    more = ["--enable-lora", "--max-loras", str(engine.max_loras), "--max-cpu-loras", str(engine.max_cpu_loras)]
    more += ["--max-lora-rank", str(engine.max_lora_rank)]
    boot = [json.dumps({"name": folder.name, "path": str(folder)}) for folder in adapters]
    command = _vllm(settings, weights, ENGINE_MODEL_NAME, url or engine.urls[0], more, cpu=cpu)
    return command + (["--lora-modules", *boot] if boot else []) + engine.arguments


def merged_engine_command(settings: Settings, *, cpu: bool, url: str, adapter: str) -> list[str]:
    """How vLLM is started at `url` on weights that the adapter is merged into: they answer under its name."""
    return _vllm(settings, merged_folder(settings, adapter), adapter, url, [], cpu=cpu) + settings.engine.arguments


def _vllm(settings: Settings, weights: Path, name: str, url: str, more: list[str], *, cpu: bool) -> list[str]:
    address, length = urlsplit(url), settings.engine.max_model_len
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(weights), "--served-model-name", name]
    command += ["--host", address.hostname or "127.0.0.1", "--port", str(address.port or 8100), *more]
    command += ["--disable-uvicorn-access-log"]
    command += ["--max-model-len", str(length)] if length is not None else []
    dtype = engine_dtype(settings, cpu=cpu)
    command += ["--dtype", dtype] if dtype else []
    return command + (["--distributed-executor-backend", "uni"] if cpu else [])


def engine_dtype(settings: Settings, *, cpu: bool) -> str | None:
    """The type that the engine computes in; None: the base model's own."""
    chosen = settings.engine.dtype
    if chosen is None and cpu and settings.base_model == "starter":
        return "float32"
    return None if chosen == "auto" else chosen


def local_engines(settings: Settings, urls: Sequence[str]) -> list[str]:
    """Of these URLs those at which `flywheel up` starts engines: on this machine's loopback address."""
    return [url for url in urls if settings.engine.start and urlsplit(url).hostname in LOOPBACK]


def engine_environment(settings: Settings, *, cpu: bool) -> dict[str, str]:
    """vLLM's environment: run-time adapters allowed, nothing phoned home; on a CPU a small cache and few threads."""
    if not cpu:
        return ENGINE_ENVIRONMENT
    kept = {name: os.environ.get(name, value) for name, value in CPU_ENGINE_ENVIRONMENT.items()}
    threads = settings.engine.threads or (1 if settings.base_model == "starter" else None)
    limits = {"VLLM_CPU_KVCACHE_SPACE": str(settings.engine.kv_cache_gib)}
    return ENGINE_ENVIRONMENT | kept | limits | ({"OMP_NUM_THREADS": str(threads)} if threads else {})


def appliance_parts(
    settings: Settings, *, engines: Sequence[Part] | None = None, dashboard_key: str = ""
) -> list[Part]:
    """Every process that `flywheel up` starts, in the order in which they need each other.

    `engines`: others than those with adapters. With a key the dashboard's pages act for whoever opens them; without,
    they ask for one.
    """
    serving, dashboard = settings.serving, settings.dashboard
    home = {"FLYWHEEL_HOME": str(settings.home.resolve())}
    signed_in = {"FLYWHEEL_API_KEY": dashboard_key} if dashboard_key else {}
    quiet = {"FLYWHEEL_SERVING__FIRST_KEY": "false"}
    parts = [
        Part("api", _module("serving"), f"http://{serving.host}:{serving.port}", "/readyz", 120, home | quiet),
        Part("worker", _module("retrain"), None, environment=home),
        Part(
            "dashboard",
            _module("dashboard"),
            f"http://{dashboard.host}:{dashboard.port}",
            "/_stcore/health",
            90,
            home | signed_in,
        ),
    ]
    engines = engine_parts(settings) if engines is None else engines
    if engines:
        parts[0] = replace(parts[0], start_seconds=settings.engine.start_seconds + 120)
    return [*engines, *parts]


def engine_parts(settings: Settings) -> list[Part]:
    """The engines that hold adapters. Raises UserError when there is something wrong with the base model."""
    urls, cpu = local_engines(settings, settings.engine.urls), cpu_engine_installed()
    if urls:
        resolve_base_model(settings.base_model_path)  # what is wrong with it is said before anything is started

    def command(url: str) -> list[str]:
        """Worked out at each start: the engine begins with what is live then."""
        return engine_command(settings, cpu=cpu, url=url, adapters=boot_adapters(settings))

    return [_engine(settings, ENGINE, number, url, partial(command, url)) for number, url in enumerate(urls, 1)]


def merged_engine_parts(settings: Settings, adapter: str) -> list[Part]:
    """The engines that hold the base weights with this adapter merged into them."""
    urls, cpu = local_engines(settings, settings.engine.merged_urls), cpu_engine_installed()
    return [
        _engine(
            settings,
            MERGED_ENGINE,
            number,
            url,
            merged_engine_command(settings, cpu=cpu, url=url, adapter=adapter),
        )
        for number, url in enumerate(urls, 1)
    ]


def _engine(
    settings: Settings, name: str, number: int, url: str, command: Sequence[str] | Callable[[], Sequence[str]]
) -> Part:
    environment = engine_environment(settings, cpu=cpu_engine_installed())
    called = f"{name}-{number}" if number > 1 else name
    return Part(called, command, url, "/health", settings.engine.start_seconds, environment)


def _module(package: str) -> list[str]:
    return [sys.executable, "-m", package]
