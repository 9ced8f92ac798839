"""`flywheel up`: the whole appliance in the foreground, with one status view, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text
from sqlalchemy import Engine as Database

from flywheel import show
from flywheel.client import ApiClient
from flywheel.database import migrate, open_database, writing
from flywheel.engine_parts import EngineParts
from flywheel.errors import FlywheelError, UserError
from flywheel.keys import FIRST_KEY, first_key
from flywheel.local_key import local_key
from flywheel.parts import appliance_parts
from flywheel.processes import Supervisor
from flywheel.settings import Settings

RESTARTS = 5
"""Within ten minutes; a part that dies more often than that has a fault that a restart does not mend."""
RESTART_WINDOW_SECONDS = 600.0
WATCH_SECONDS = 0.3
"""How often it is looked whether a part died."""


def run_appliance(settings: Settings, console: Console) -> None:
    """Start, show, watch, stop. Raises UserError when a part cannot be started, or keeps dying."""
    for stopping in (signal.SIGINT, signal.SIGTERM):  # a background shell has told us to ignore the first
        signal.signal(stopping, _interrupt)
    database = open_database(settings.resolved_database_url, checkpoints=False)
    migrate(database)
    _print_first_key(settings, database, console)
    engines = EngineParts(settings, database)
    parts = appliance_parts(settings, engines=engines.now())
    with local_key(settings) as key, Supervisor(parts, logs=settings.home / "logs") as supervisor:
        supervisor.start()
        console.print("Starting; the engine takes about a minute on a CPU. Ctrl-C stops everything.")
        supervisor.wait_until_healthy(lambda name, seconds: console.print(f"  {name} is ready after {seconds:.0f} s"))
        _watch(supervisor, engines, ApiClient(settings.api_url, key=key, timeout_seconds=5), console)


def _print_first_key(settings: Settings, database: Database, console: Console) -> None:
    """Once in an appliance's life; here rather than by serving, whose output goes to a file."""
    with writing(database) as session:
        secret = first_key(session, tenant=settings.tenant) if settings.serving.require_keys else None
    if secret is not None:
        console.print(FIRST_KEY.format(secret), soft_wrap=True)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _watch(supervisor: Supervisor, engines: EngineParts, api: ApiClient, console: Console) -> None:
    """Starts again what dies, and starts and stops engines. The view is drawn beside it: what it asks may take long."""
    deaths: list[float] = []
    with Live(console=console, refresh_per_second=2) as live:
        threading.Thread(target=_show, args=(supervisor, api, live), name="view", daemon=True).start()
        while True:
            for sentence in engines.follow(supervisor):
                live.console.print(sentence, soft_wrap=True)
            for name in supervisor.restart_dead():
                deaths = [died for died in deaths if time.monotonic() - died < RESTART_WINDOW_SECONDS] + [
                    time.monotonic()
                ]
                live.console.print(f"{name} died and is started again; its log is {supervisor.running[name].log}")
                if len(deaths) > RESTARTS:
                    raise UserError(f"{name} keeps dying. The end of its log:\n{supervisor.running[name].last_words()}")
            time.sleep(WATCH_SECONDS)


def _show(supervisor: Supervisor, api: ApiClient, live: Live) -> None:
    while live.is_started:
        live.update(_view(supervisor, api))
        time.sleep(2)


def _view(supervisor: Supervisor, api: ApiClient) -> RenderableType:
    table = Table("part", "state", "address", "process", "memory", box=None, pad_edge=False)
    for name, running in list(supervisor.running.items()):
        state = Text("healthy", "green") if running.healthy else Text("starting" if running.alive else "dead", "yellow")
        table.add_row(
            name,
            state,
            running.part.address or "–",
            str(running.process.pid),
            f"{running.resident_bytes() / 2**20:.0f} MiB",
        )
    try:
        below: RenderableType = show.status_table(api.get("/v1/status"))
    except FlywheelError as error:
        below = Text(str(error), "yellow")
    return Group(Text(), table, Text(), below)
