"""`python -m dashboard` as a process: one clear line for what a person got wrong, health, and a quiet end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx

from tests.dashboard.conftest import started_dashboard

ROOT = Path(__file__).parents[2]


def start(home: Path, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dashboard"],
        cwd=ROOT,
        env=os.environ | {"FLYWHEEL_HOME": str(home)} | settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_port_in_use_is_one_line_that_names_the_setting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = start(tmp_path, {"FLYWHEEL_DASHBOARD__PORT": port})
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert f"127.0.0.1:{port}" in ended.stderr
    assert "FLYWHEEL_DASHBOARD__PORT" in ended.stderr


def test_unknown_setting_is_one_line_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "flywheel.toml").write_text("[dashboard]\nprot = 8501\n")
    ended = start(tmp_path, {})
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "Did you mean dashboard.port?" in ended.stderr


def test_dashboard_ends_on_sigterm_although_nobody_reads_its_output(api_url: str, tmp_path: Path) -> None:
    with started_dashboard(api_url, tmp_path) as running:
        assert running.process.stdout
        running.process.stdout.close()
        assert httpx.get(f"{running.url}/_stcore/health", trust_env=False).text == "ok"
        running.process.terminate()
        assert running.process.wait(timeout=60) == 0
