"""A stand-in API on a free port, and pages that speak to it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn
from streamlit.testing.v1 import AppTest

from dashboard.api import Api
from tests.dashboard.fake_api import make_app
from tests.dashboard.fake_records import Records

ROOT = Path(__file__).parents[2]
APP = ROOT / "dashboard" / "app.py"
START_SECONDS = 120
STOP_SECONDS = 60


@pytest.fixture(scope="session")
def stand_in() -> Iterator[tuple[Records, str]]:
    """The stand-in API as a thread, once for all tests, and where it answers."""
    records = Records()
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(make_app(records), log_level="error", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield records, f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listener.close()


@pytest.fixture
def records(stand_in: tuple[Records, str]) -> Records:
    stand_in[0].reset()
    return stand_in[0]


@pytest.fixture
def api_url(stand_in: tuple[Records, str], records: Records) -> str:
    return stand_in[1]


@pytest.fixture
def api(api_url: str) -> Iterator[Api]:
    with closing(Api(api_url)) as client:
        yield client


@pytest.fixture
def open_page(api_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., AppTest]:
    """Opens one page inside its frame, as a person whose name is known."""

    def run(page: str, *, name: str = "Mira") -> AppTest:
        monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path))
        monkeypatch.setenv("FLYWHEEL_DASHBOARD__API_URL", api_url)
        monkeypatch.setattr(sys, "path", list(sys.path))  # the harness puts dashboard/ in front
        test = AppTest.from_file(str(APP), default_timeout=60)
        test.session_state["name"] = name
        return test.run() if page == "chat" else test.run().switch_page(f"views/{page}.py").run()

    return run


@dataclass
class Dashboard:
    """A running `python -m dashboard`."""

    url: str
    process: subprocess.Popen[str]


@pytest.fixture(scope="session")
def dashboard_of_all(stand_in: tuple[Records, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    with started_dashboard(stand_in[1], tmp_path_factory.mktemp("home")) as running:
        yield running


@pytest.fixture
def dashboard(dashboard_of_all: Dashboard, records: Records) -> Dashboard:
    """The pages as a process, for the stand-in API as it is before the first request."""
    return dashboard_of_all


@contextmanager
def started_dashboard(api_url: str, home: Path) -> Iterator[Dashboard]:
    """`python -m dashboard` on a free port."""
    settings = {"FLYWHEEL_HOME": str(home), "FLYWHEEL_DASHBOARD__PORT": "0", "FLYWHEEL_DASHBOARD__API_URL": api_url}
    command = [sys.executable, "-m", "dashboard"]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | settings, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            url = process.stdout.readline().split(",")[0].removeprefix("Dashboard on ")
            wait_until_healthy(url)
            yield Dashboard(url, process)
            process.terminate()
            process.wait(timeout=STOP_SECONDS)
        finally:
            process.kill()


def wait_until_healthy(url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/_stcore/health", trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise TimeoutError(f"The dashboard on {url} was not healthy within {START_SECONDS} seconds.")
