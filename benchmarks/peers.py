"""Other gateways, each in an environment of its own: their pinned packages would not fit beside ours.

The environments are made at the first use, below `.peers/` (ignored by git), from the package registry.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import START_SECONDS, free_port

FOLDER = Path(".peers")
PACKAGES = {
    "litellm": ["litellm[proxy]==1.106.2"],
    "tensorzero": ["tensorzero==2026.6.0"],
    "openai2": ["openai==2.54.0"],
}
EMBEDDED = """
import asyncio, sys, tensorzero

async def main():
    gateway = await tensorzero._start_http_gateway(
        config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=True
    )
    print(gateway.base_url, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
TENSORZERO = """
[gateway]
observability.enabled = false
[models.mock]
routing = ["upstream"]
[models.mock.providers.upstream]
type = "openai"
model_name = "mock"
api_base = "{engine}/v1/"
api_key_location = "none"
"""
LITELLM = """
model_list:
  - model_name: mock
    litellm_params: {{model: openai/mock, api_base: "{engine}/v1", api_key: none}}
general_settings: {{master_key: sk-benchmark}}
"""


@dataclass(frozen=True)
class Gateway:
    """Something that speaks OpenAI's API in front of the engine."""

    name: str
    url: str
    """Up to and without /chat/completions."""
    model: str
    key: str
    pid: int | None = None
    """None: the engine itself, whose CPU nobody asks for."""


def environment(name: str) -> Path:
    """The Python of a peer's own environment, made when it is not there."""
    python = FOLDER / name / "bin" / "python"
    if not python.exists():
        uv = str(Path(sys.executable).with_name("uv"))
        print(f"Making the environment of {name} in {FOLDER / name} …", file=sys.stderr)
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(FOLDER / name)], check=True)
        subprocess.run([uv, "pip", "install", "-q", "--python", str(python), *PACKAGES[name]], check=True)
    return python


@contextmanager
def litellm(engine: str, folder: Path) -> Iterator[Gateway]:
    """LiteLLM's proxy, one worker, no database."""
    config, port = folder / "litellm.yaml", free_port()
    config.write_text(LITELLM.format(engine=engine))
    command = [str(environment("litellm").with_name("litellm")), "--config", str(config), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--num_workers", "1", "--telemetry", "False"]
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "NO_DOCS": "True"}
    with (
        (folder / "litellm.log").open("w") as log,
        subprocess.Popen(command, env=os.environ | quiet, stdout=log, stderr=log) as process,
    ):
        try:
            _wait(f"http://127.0.0.1:{port}/health/liveliness", process)
            yield Gateway("LiteLLM", f"http://127.0.0.1:{port}/v1", "mock", "sk-benchmark", process.pid)
        finally:
            process.kill()


@contextmanager
def tensorzero(engine: str, folder: Path) -> Iterator[Gateway]:
    """TensorZero's gateway as its Python package embeds it; it logs nothing and asks for no key."""
    config = folder / "tensorzero.toml"
    config.write_text(TENSORZERO.format(engine=engine))
    command = [str(environment("tensorzero")), "-u", "-c", EMBEDDED, str(config)]
    said = folder / "tensorzero.log"
    with said.open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield Gateway("TensorZero", _told(said), "tensorzero::model_name::mock", "none", process.pid)
        finally:
            process.kill()


def _told(log: Path) -> str:
    """The address that stands in a line of its own, once it does."""
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up:
        for line in log.read_text().splitlines():
            if line.startswith("http"):
                return line.strip().rstrip("/")
        time.sleep(0.1)
    raise RuntimeError(f"No address in {log}: {log.read_text()[-500:]}")


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + 2 * START_SECONDS
    while time.monotonic() < give_up and process.poll() is None:
        try:
            with urllib.request.urlopen(url):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    raise RuntimeError(f"{process.args!r} did not start.")
