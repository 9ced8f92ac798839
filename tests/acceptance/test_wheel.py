"""The whole wheel on a reduced scale, as a user turns it: `flywheel demo --yes --quick`, real vLLM, real training.

It must end with a better adapter live: gate passed, verdict SHIP, promoted under traffic, rolled back and forth. Users,
sampling and the order of requests differ from run to run, and on so few users the gate or the experiment may rightly
say no; then a second turn has to succeed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SAID_NO = re.compile(r"at the stage “train”: the run refused|at the stage “experiment”: the verdict is|Not better: ")
FLYWHEEL = [sys.executable, "-c", "from flywheel.cli import app; app()"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, free_ports: Callable[[int], list[int]]) -> dict[str, str]:
    engine, serving, dashboard = free_ports(3)
    return {
        **os.environ,
        "FLYWHEEL_HOME": str(tmp_path_factory.mktemp("wheel") / "home"),
        "FLYWHEEL_ENGINE__URLS": json.dumps([f"http://127.0.0.1:{engine}"]),
        "FLYWHEEL_SERVING__PORT": str(serving),
        "FLYWHEEL_DASHBOARD__PORT": str(dashboard),
        "COLUMNS": "160",
    }


@pytest.fixture(scope="module")
def turned(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    demo = [*FLYWHEEL, "demo", "--yes", "--quick"]
    for _ in range(2):
        done = subprocess.run(demo, env=environment, capture_output=True, text=True, timeout=950, check=False)
        if SAID_NO.search(done.stdout + done.stderr) is None:
            break
        print(done.stdout[-4000:], done.stderr[-1000:])
    return done


@pytest.fixture(scope="module")
def report(turned: subprocess.CompletedProcess[str], environment: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(environment["FLYWHEEL_HOME"]) / "demo-report.json").read_text())
    return found


@pytest.mark.timeout(1950)
def test_wheel_turns_and_the_promoted_adapter_is_better(
    turned: subprocess.CompletedProcess[str], report: dict[str, Any]
) -> None:
    told = turned.stdout + turned.stderr
    assert turned.returncode == 0, told[-6000:]
    assert "Traceback" not in told
    assert report["experiment"]["verdict"] == "SHIP"
    assert report["promoted_adapter"].startswith("lora-")
    assert report["after"]["wanted_behaviour"]["rate"] > report["before"]["wanted_behaviour"]["rate"]
    assert report["after"]["fact_accuracy"]["rate"] >= report["before"]["fact_accuracy"]["rate"] - 0.03


def test_report_tells_every_stage_and_its_seconds(report: dict[str, Any]) -> None:
    names = [stage["name"] for stage in report["stages"]]
    whole = ["start", "ingest", "chat", "pairs", "train", "experiment", "measure", "promotion", "lineage"]
    assert names == whole
    assert all(stage["seconds"] >= 0 for stage in report["stages"])


def test_no_request_failed_and_none_was_answered_by_a_wrong_adapter(report: dict[str, Any]) -> None:
    requests = report["requests"]
    assert requests["total"] > 300
    assert requests["failed"] == 0, requests["errors"]
    assert requests["wrong_adapter"] == 0
    assert report["rollback_seconds"] <= 1


def test_dataset_version_is_named_by_its_content(report: dict[str, Any], environment: dict[str, str]) -> None:
    versions = [folder for folder in (Path(environment["FLYWHEEL_HOME"]) / "datasets").iterdir() if folder.is_dir()]
    assert len(versions) == 1
    assert sorted(file.suffix for file in versions[0].iterdir() if file.suffix == ".parquet") == [".parquet"] * 2
    assert versions[0].name == f"ds-{report['dataset']['hash'][:12]}"
    assert report["dataset"]["rows"] >= 50


def test_lineage_reaches_judged_pairs(turned: subprocess.CompletedProcess[str]) -> None:
    assert re.search(r"judged by rule: [a-z, ]+ \(rule\)", turned.stdout)


def test_nothing_runs_on_after_the_demo(turned: subprocess.CompletedProcess[str], environment: dict[str, str]) -> None:
    assert turned.returncode == 0
    assert processes_of(environment["FLYWHEEL_HOME"]) == []


@pytest.mark.timeout(180)
def test_interrupted_demo_stops_everything_and_the_next_one_starts_clean(
    environment: dict[str, str], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    own = environment | {"FLYWHEEL_HOME": str(home)}
    demo = subprocess.Popen([*FLYWHEEL, "demo"], env=own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    give_up = time.monotonic() + 60
    while not (home / "logs" / "dashboard.log").exists() and time.monotonic() < give_up:
        time.sleep(0.1)
    time.sleep(3)
    demo.send_signal(signal.SIGINT)
    assert demo.wait(90) == 130
    assert processes_of(str(home)) == []
    for name in ("FLYWHEEL_SERVING__PORT", "FLYWHEEL_DASHBOARD__PORT"):
        socket.create_server(("127.0.0.1", int(own[name]))).close()


def processes_of(home: str) -> list[str]:
    """Command lines of processes whose environment names this home."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"FLYWHEEL_HOME={home}\0".encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found
