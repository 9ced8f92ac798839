"""Every mistake a person can make on the command line is one clear line and exit code 1."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

FLYWHEEL = [sys.executable, "-c", "from flywheel.cli import app; app()"]


def flywheel(*arguments: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "FLYWHEEL_HOME": str(home), **variables}
    return subprocess.run(
        [*FLYWHEEL, *arguments], capture_output=True, text=True, env=environment, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "variables", "says"),
    [
        (("status",), {"FLYWHEEL_SERVING__PORT": "9"}, "Start the appliance with `flywheel up`"),
        (("--set", "serving.prot=1", "status"), {}, "Did you mean FLYWHEEL_SERVING__PORT?"),
        (("--set", "serving.port=many", "status"), {}, "Setting serving.port"),
        (("status",), {"FLYWHEEL_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}, "onnection refused"),
        (("up",), {"FLYWHEEL_BASE_MODEL": "/no/such/model"}, "No base model '/no/such/model'"),
        (("ingest", "/no/such/file.md"), {}, "There is no file or folder /no/such/file.md"),
    ],
)
def test_mistake_is_one_line_and_exit_code_one(
    arguments: tuple[str, ...], variables: dict[str, str], says: str, tmp_path: Path
) -> None:
    done = flywheel(*arguments, home=tmp_path, **variables)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_unknown_key_in_the_settings_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "flywheel.toml").write_text("[engine]\nmax_lora = 4\n")
    done = flywheel("status", home=tmp_path)
    assert done.returncode == 1
    assert "Unknown setting engine.max_lora. Did you mean engine.max_loras?" in done.stderr


def test_broken_settings_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "flywheel.toml").write_text("[engine\n")
    done = flywheel("status", home=tmp_path)
    assert done.returncode == 1
    assert "is not valid TOML" in done.stderr


def test_doctor_names_what_is_missing_and_what_mends_it(tmp_path: Path) -> None:
    done = flywheel("doctor", home=tmp_path, FLYWHEEL_BASE_MODEL="/no/such/model")
    assert done.returncode == 1
    assert "No base model '/no/such/model'" in done.stdout.replace("\n", " ")
    assert "Traceback" not in done.stderr


def test_full_port_is_named_before_anything_is_started(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = flywheel("--set", f"dashboard.port={port}", "--set", "serving.port=0", "up", home=tmp_path)
    assert done.returncode == 1
    assert "dashboard cannot listen on" in done.stderr
