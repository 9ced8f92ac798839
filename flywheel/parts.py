"""What the appliance consists of: the command, address and health check of each process, from the settings.

The engine's flags are facts about vLLM (docs/decisions.md tells why each is there); everything else is `python -m
PACKAGE`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import urlsplit

from flywheel.base_model import resolve_base_model
from flywheel.boot_adapters import boot_adapters
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
    engine, address = settings.engine, urlsplit(url or settings.engine.urls[0])
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(resolve_base_model(settings.base_model_path)), "--served-model-name", ENGINE_MODEL_NAME]
    command += ["--host", address.hostname or "127.0.0.1", "--port", str(address.port or 8100)]
    command += ["--enable-lora", "--max-loras", str(engine.max_loras), "--max-cpu-loras", str(engine.max_cpu_loras)]
    command += ["--max-lora-rank", str(engine.max_lora_rank), "--disable-uvicorn-access-log"]
    if engine.max_model_len is not None:
        command += ["--max-model-len", str(engine.max_model_len)]
    dtype = engine.dtype or ("float32" if cpu and settings.base_model == "starter" else None)
    command += ["--dtype", dtype] if dtype else []
    command += ["--distributed-executor-backend", "uni"] if cpu else []
    boot = [json.dumps({"name": folder.name, "path": str(folder)}) for folder in adapters]
    command += ["--lora-modules", *boot] if boot else []
    return command + engine.arguments


def local_engines(settings: Settings) -> list[str]:
    """The URLs at which `flywheel up` starts engines: those on this machine's loopback address."""
    urls = settings.engine.urls if settings.engine.start else []
    return [url for url in urls if urlsplit(url).hostname in LOOPBACK]


def engine_environment(settings: Settings, *, cpu: bool) -> dict[str, str]:
    """vLLM's environment: run-time adapters allowed, nothing phoned home; on a CPU a small cache and few threads."""
    if not cpu:
        return ENGINE_ENVIRONMENT
    kept = {name: os.environ.get(name, value) for name, value in CPU_ENGINE_ENVIRONMENT.items()}
    threads = settings.engine.threads or (1 if settings.base_model == "starter" else None)
    limits = {"VLLM_CPU_KVCACHE_SPACE": str(settings.engine.kv_cache_gib)}
    return ENGINE_ENVIRONMENT | kept | limits | ({"OMP_NUM_THREADS": str(threads)} if threads else {})


def appliance_parts(settings: Settings, *, dashboard_key: str = "") -> list[Part]:
    """Every process that `flywheel up` starts, in the order in which they need each other.

    With a key the dashboard's pages act for whoever opens them; without, they ask for one.
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
    engines = _engines(settings)
    if engines:
        parts[0] = replace(parts[0], start_seconds=settings.engine.start_seconds + 120)
    return engines + parts


def _engines(settings: Settings) -> list[Part]:
    urls, cpu = local_engines(settings), cpu_engine_installed()
    if urls:
        resolve_base_model(settings.base_model_path)  # what is wrong with it is said before anything is started

    def command(url: str) -> list[str]:
        """Worked out at each start: the engine begins with what is live then."""
        return engine_command(settings, cpu=cpu, url=url, adapters=boot_adapters(settings))

    environment, limit = engine_environment(settings, cpu=cpu), settings.engine.start_seconds
    return [
        Part(f"engine-{number}" if number > 1 else "engine", partial(command, url), url, "/health", limit, environment)
        for number, url in enumerate(urls, 1)
    ]


def _module(package: str) -> list[str]:
    return [sys.executable, "-m", package]
