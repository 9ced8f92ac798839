"""What tests share: real parts, each started once per session and ended with it.

- `engine_url`: vLLM on the starter base model. TEST_ENGINE_URL names a running engine to use instead (quicker while
  developing); its base model is then the tests' base model.
- `database`: a migrated database, once on SQLite and once on PostgreSQL.
- `served`: serving on a fresh home, in this process, for one test module; `api` and `client` speak to it.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import openai
import psycopg
import pytest
from sqlalchemy import Engine
from xdist.scheduler import LoadFileScheduling

from flywheel.database import migrate, open_database, writing
from flywheel.keys import create_local_key
from flywheel.parts import engine_command, engine_environment
from flywheel.processes import Part, Running, answers
from flywheel.settings import STARTER, Settings, load_settings

ENGINE_START_SECONDS = 280
TOOL_CALLS = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
POSTGRES_PLACES = "/usr/lib/postgresql"


class AFileAtATime(LoadFileScheduling):  # type: ignore[misc]  # untyped
    """With several workers a file is one's alone. Those that speak to the session's engine are all one's: so there is
    one engine, and nobody unloads what another asks for."""

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        return "engine" if _speaks_to_engine(self.config.rootpath / file) else file


@cache
def _speaks_to_engine(file: Path) -> bool:
    text = file.read_text()
    spoken = ("Served", "engine_url", "made_control", "trained_adapter")
    return "cripted" not in text and any(word in text for word in spoken)  # scripted ones are a file's own


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> AFileAtATime:
    return AFileAtATime(config, log)


def free_port() -> int:
    """A port on the loopback address that nothing listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def wait_until(holds: Callable[[], object], *, seconds: float = 30) -> None:
    """Return once `holds()` is true; fail the test when it is not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def engine_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a real vLLM answers."""
    given = os.environ.get("TEST_ENGINE_URL")
    if given:
        yield given
        return
    url = f"http://127.0.0.1:{free_port()}"
    settings = load_settings(base_model=str(STARTER), engine={"urls": [url], "arguments": TOOL_CALLS})
    command, environment = engine_command(settings, cpu=True), engine_environment(settings, cpu=True)
    part = Part("engine", command, url, "/health", environment=environment)
    running = Running(part, logs=tmp_path_factory.mktemp("engine"))
    try:
        deadline = time.monotonic() + ENGINE_START_SECONDS
        while not running.healthy:
            assert running.alive, running.last_words(40)
            assert time.monotonic() < deadline, running.last_words(40)
            time.sleep(0.5)
        yield url
    finally:
        running.stop()


@pytest.fixture(scope="session")
def base_model(engine_url: str) -> str:
    """The directory of the base model that the engine serves."""
    with urllib.request.urlopen(f"{engine_url}/v1/models") as answer:
        cards = json.load(answer)["data"]
    return next(str(card["root"]) for card in cards if card["parent"] is None)


@pytest.fixture(scope="session")
def embedder() -> Any:
    """The bundled embedding model; loading it takes seconds."""
    from rag.embedding import BUNDLED, Embedder

    return Embedder(BUNDLED)


@dataclass
class Served:
    """Serving in this process."""

    url: str
    settings: Settings
    app: Any
    key: str
    """An admin's."""

    @property
    def authorized(self) -> dict[str, str]:
        """Headers."""
        return {"authorization": f"Bearer {self.key}"}

    @property
    def database(self) -> Engine:
        found: Engine = self.app.appliance.database
        return found


@pytest.fixture(scope="module")
def served(engine_url: str, base_model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serving on a fresh home, ready for routed chats."""
    settings = load_settings(
        home=tmp_path_factory.mktemp("home"),
        base_model=base_model,
        engine={"urls": [engine_url]},
        serving={"port": 0, "reconcile_seconds": 0.3, "look_seconds": 0.5, "signal_seconds": 0.3},
    )
    with serving_on(settings) as found:
        wait_until(lambda: answers(f"{found.url}/readyz"), seconds=280)
        yield found


class serving_on:  # noqa: N801  used as a function
    """Serving on `settings` in a thread of this process, for the length of a `with` block; not waited for."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def __enter__(self) -> Served:
        import uvicorn

        from serving.__main__ import listen
        from serving.app import build_app
        from serving.http import server_config
        from serving.records import open_records

        listener = listen(self.settings)
        records = open_records(self.settings)
        with writing(records) as session:
            _, key = create_local_key(session, tenant=self.settings.tenant, lifetime=timedelta(hours=2))
        app = build_app(self.settings, records)
        config = server_config(app)
        config.timeout_graceful_shutdown = 5
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]}, name="serving")
        self.thread.start()
        wait_until(lambda: self.server.started or not self.thread.is_alive())
        assert self.server.started, "serving did not start"
        return Served(f"http://127.0.0.1:{listener.getsockname()[1]}", self.settings, app, key)

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive(), "serving did not stop"


@pytest.fixture
def appliance_url(served: Served) -> str:
    """Where the API answers."""
    return served.url


@pytest.fixture
def api(served: Served) -> Iterator[httpx.Client]:
    """A plain HTTP client on the API, with an admin's key."""
    with httpx.Client(base_url=served.url, timeout=60, headers=served.authorized) as client:
        yield client


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    """The stock client on the API; it does not try again, so that a test sees the first answer."""
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=served.key, max_retries=0, timeout=60) as found:
        yield found


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """A real PostgreSQL server of our own, not run as root; the URL of its first database."""
    binaries = sorted(Path(POSTGRES_PLACES).glob("*/bin/postgres"))
    if not binaries:
        pytest.skip("the PostgreSQL server is not installed (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    port, user = free_port(), _postgres_user()
    prefix = _as_user(folder, user)
    data = str(folder / "data")
    init = [*prefix, str(binaries[-1].parent / "initdb"), "-D", data, "-U", "flywheel", "-A", "trust", "--no-sync"]
    running = Running(Part("initdb", init, None), logs=folder / "logs")
    assert running.process.wait(120) == 0, running.last_words()
    command = [*prefix, str(binaries[-1]), "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", str(folder)]
    command += ["-c", "fsync=off"]  # dozens of databases, none of which outlives the session
    running = Running(Part("postgresql", command, None), logs=folder / "logs")
    url = f"postgresql://flywheel@127.0.0.1:{port}/postgres"
    try:
        wait_until(lambda: _connects(url), seconds=60)
        yield url
    finally:
        running.stop()
        shutil.rmtree(folder)


def _postgres_user() -> str | None:
    """Whom the server runs as when we are root, which it refuses."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _as_user(folder: Path, user: str | None) -> list[str]:
    if user is None:
        return []
    entry = pwd.getpwnam(user)
    os.chown(folder, entry.pw_uid, entry.pw_gid)
    ids = ["--reuid", str(entry.pw_uid), "--regid", str(entry.pw_gid), "--clear-groups"]
    return ["setpriv", *ids, "--pdeathsig", "SIGINT", "--"]


def _connects(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, to be copied: migrating takes longer than copying."""
    file = tmp_path_factory.mktemp("sqlite") / "template.db"
    engine = open_database(f"sqlite:///{file}")
    migrate(engine)
    engine.dispose()
    return file


@pytest.fixture(scope="session")
def migrated_postgresql(postgresql_url: str) -> str:
    """The name of a migrated PostgreSQL database, to be used as a template."""
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE migrated")
    engine = open_database(postgresql_url.replace("/postgres", "/migrated"))
    migrate(engine)
    engine.dispose()
    return "migrated"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a fresh, migrated database."""
    if request.param == "sqlite":
        file = tmp_path / "flywheel.db"
        shutil.copy(request.getfixturevalue("migrated_sqlite"), file)
        return f"sqlite:///{file}"
    server: str = request.getfixturevalue("postgresql_url")
    name = f"test_{time.monotonic_ns()}"
    with psycopg.connect(server, autocommit=True) as connection:
        template = request.getfixturevalue("migrated_postgresql")
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
    return server.removesuffix("postgres") + name


@pytest.fixture
def database(database_url: str) -> Iterator[Engine]:
    """A fresh, migrated database."""
    engine = open_database(database_url)
    yield engine
    engine.dispose()
