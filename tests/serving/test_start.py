"""`python -m serving` as a process: what it refuses in one line, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest


def start(home: Path, **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "FLYWHEEL_HOME": str(home), **variables}
    return subprocess.Popen(
        [sys.executable, "-m", "serving"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def refusal(process: subprocess.Popen[str]) -> str:
    out, line = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out == ""
    assert line.count("\n") == 1
    return line


def test_full_port_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refusal(start(tmp_path, FLYWHEEL_BASE_MODEL=str(tiny(tmp_path)), FLYWHEEL_SERVING__PORT=port))
    assert port in line
    assert "FLYWHEEL_SERVING__PORT" in line


def test_missing_base_model_is_said_in_one_line(tmp_path: Path) -> None:
    assert "/nowhere/at-all" in refusal(start(tmp_path, FLYWHEEL_BASE_MODEL="/nowhere/at-all"))


def test_wrong_setting_is_said_in_one_line_with_the_right_one(tmp_path: Path) -> None:
    (tmp_path / "flywheel.toml").write_text("[serving]\nprot = 8080\n")
    assert "serving.port" in refusal(start(tmp_path))


def test_unreachable_database_is_said_in_one_line(tmp_path: Path) -> None:
    url = "postgresql://nobody@127.0.0.1:1/none"
    line = refusal(
        start(
            tmp_path,
            FLYWHEEL_BASE_MODEL=str(tiny(tmp_path)),
            FLYWHEEL_SERVING__PORT="0",
            FLYWHEEL_DATABASE_URL=url,
        )
    )
    assert "database_url" in line


@pytest.mark.engine
def test_sigterm_lets_the_answer_under_way_finish(tmp_path: Path, engine_url: str, base_model: str) -> None:
    process = start(
        tmp_path,
        FLYWHEEL_BASE_MODEL=base_model,
        FLYWHEEL_SERVING__PORT="0",
        FLYWHEEL_SERVING__REQUIRE_KEYS="false",
        FLYWHEEL_ENGINE__URLS=json.dumps([engine_url]),
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        deadline = time.monotonic() + 120
        body = {
            "model": "flywheel-plain",
            "messages": [{"role": "user", "content": "Hi"}],
            "stream": True,
            "max_tokens": 60,
            "ignore_eos": True,
        }
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{url}/readyz").json()["parts"]["live_adapter"]["ready"]:
                    break
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as response:
            lines = response.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


def tiny(folder: Path) -> Path:
    """A directory that looks like a base model to whoever does not open the weights."""
    made = folder / "tiny"
    made.mkdir()
    (made / "config.json").write_text("{}")
    return made
