"""`flywheel demo`: prepares a home of its own, starts the appliance, runs the stages, writes the report, stops
everything.

Each run begins clean: the home of an earlier one, finished or interrupted, is kept beside it under its time. Exit
code 0 only if the adapter was promoted, is better with a lower bound above zero, and lost no fact accuracy beyond the
margin.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flywheel.client import ApiClient
from flywheel.database import migrate, open_database
from flywheel.demo import stages
from flywheel.demo.ingest import ingest_help_centre
from flywheel.demo.people import People
from flywheel.demo.stages import QUICK, SaidNoError, Scale, Turn
from flywheel.demo.telling import Teller
from flywheel.errors import FlywheelError
from flywheel.local_key import local_key
from flywheel.parts import appliance_parts
from flywheel.processes import Supervisor
from flywheel.settings import PREFIX, Settings, load_settings

DEFAULT_HOME = Path(".flywheel") / "demo"
FACT_MARGIN = 0.03
"""The gate's margin: more fact accuracy than this must not be lost."""
REPORT = "demo-report.json"


def run_demo(*, approve_without_asking: bool, quick: bool) -> int:
    """Turn the wheel once; the exit code."""
    console = Console()
    scale = QUICK if quick else Scale()
    settings = _prepare(scale)
    tell = Teller(console)
    console.print(f"[bold]Flywheel turns once.[/] Everything is kept in {settings.home}.")
    for stopping in (signal.SIGINT, signal.SIGTERM):  # a background shell has told us to ignore the first
        signal.signal(stopping, _interrupt)
    turn: Turn | None = None
    try:
        with ExitStack() as stack:
            key = stack.enter_context(local_key(settings))
            parts = appliance_parts(settings, dashboard_key=key)
            supervisor = stack.enter_context(Supervisor(parts, logs=settings.home / "logs"))
            _start(supervisor, tell)
            turn = _turn(settings, tell, scale, key)
            _run_stages(turn, approve_without_asking=approve_without_asking)
    except KeyboardInterrupt:
        console.print("\nInterrupted; everything is stopped. The next run starts clean.")
        return 130
    except FlywheelError as error:
        print(f"flywheel: {error}", file=sys.stderr)
    finally:
        if turn is not None:
            turn.people.close()
            _write_report(settings, turn)
    better = turn is not None and _conclude(turn)
    _say_how_to_go_on(console, settings)
    return 0 if better else 1


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _prepare(scale: Scale) -> Settings:
    """A fresh home, with settings for a demo in its flywheel.toml (so that `flywheel up` finds the same later)."""
    home = Path(os.environ.get(PREFIX + "HOME") or DEFAULT_HOME).resolve()
    if (home / "flywheel.db").exists() and not (home / "demo").exists():
        raise SaidNoError(
            "start", f"{home} is the home of a real appliance. Give the demo another one: flywheel --home DIR demo."
        )
    if (home / "demo").exists():
        began = datetime.fromtimestamp((home / "demo").stat().st_mtime)  # noqa: DTZ006  (a folder's name, in local time)
        shutil.move(home, home.with_name(f"{home.name}-{began:%Y%m%d-%H%M%S}"))
    home.mkdir(parents=True, exist_ok=True)
    (home / "demo").touch()
    retrain = f'recipe = "starter"\nminimum_users = {scale.minimum_users}\nplanned_effect = 0.06\npoll_seconds = 0.5\n'
    toml = f"[serving]\nlook_seconds = 2.0\n\n[retrain]\n{retrain}"
    (home / "flywheel.toml").write_text(toml)
    os.environ[PREFIX + "HOME"] = str(home)
    settings = load_settings()
    database = open_database(settings.resolved_database_url)
    migrate(database)
    database.dispose()
    return settings


def _start(supervisor: Supervisor, tell: Teller) -> None:
    with tell.stage("start", "Start: vLLM with the starter base model, the API, the worker, the dashboard"):
        supervisor.start()
        supervisor.wait_until_healthy(lambda name, seconds: tell.say(f"{name} is healthy after {seconds:.0f} s"))


def _turn(settings: Settings, tell: Teller, scale: Scale, key: str) -> Turn:
    api = ApiClient(settings.api_url, key=key, timeout_seconds=600)
    people = People(api, model=settings.serving.alias, at_once=16)
    return Turn(api=api, people=people, tell=tell, scale=scale, alias=settings.serving.alias)


def _run_stages(turn: Turn, *, approve_without_asking: bool) -> None:
    tell = turn.tell
    with tell.stage("ingest", "Ingest the sample help centre and ask it a question"):
        ingest_help_centre(turn)
    with tell.stage("chat", "Simulated users chat and rate"):
        stages.chat_and_rate(turn)
    with tell.stage("pairs", "Rated answers become judged pairs"):
        stages.judge_pairs(turn)
    with tell.stage("train", "A turn: freeze, train, gate, publish"):
        stages.train_challenger(turn)
    with tell.stage("experiment", "An A/B experiment on live (simulated) users"):
        stages.run_experiment(turn)
    with tell.stage("measure", "Before and after on held-out prompts"):
        stages.measure_arms(turn)
    with tell.stage("promotion", "The operator decides; the alias flips under traffic"):
        stages.promote_under_traffic(turn, approve_without_asking=approve_without_asking)
    with tell.stage("lineage", "Where one answer comes from"):
        stages.show_lineage(turn)


def _write_report(settings: Settings, turn: Turn) -> None:
    tally = turn.people.tally
    report = {"stages": turn.tell.stages, "requests": {"total": tally.total, "failed": tally.failed}, **turn.report}
    report["requests"]["errors"] = tally.errors[:5]
    (settings.home / REPORT).write_text(json.dumps(report, indent=2) + "\n")


def _conclude(turn: Turn) -> bool:
    """The final table and sentence; whether the promoted adapter is better."""
    if "before" not in turn.report or "after" not in turn.report:
        return False
    changes = stages.improvement(turn)
    turn.console.print(_final_table(turn.report["before"], turn.report["after"], changes))
    wanted_low, fact_change = changes["wanted_behaviour"][1], changes["fact_accuracy"][0]
    promoted, better, safe = "promoted_adapter" in turn.report, wanted_low > 0, fact_change >= -FACT_MARGIN
    if promoted and better and safe:
        turn.tell.say(
            f"{turn.challenger} is live and better: wanted behaviour rose by at least {wanted_low:.2f} (95 %)."
        )
        return True
    reasons = [
        "no adapter was promoted" * (not promoted),
        "wanted behaviour did not surely rise" * (not better),
        f"fact accuracy fell by {-fact_change:.3f}" * (not safe),
    ]
    turn.tell.say("Not better: " + "; ".join(reason for reason in reasons if reason) + ".")
    return False


def _final_table(
    before: dict[str, Any], after: dict[str, Any], changes: dict[str, tuple[float, float, float]]
) -> Table:
    title = "Held-out prompts, greedy (95 % intervals: Wilson; change: paired)"
    table = Table("", "before", "after", "change", title=title, title_justify="left")
    for name, (change, low, high) in changes.items():
        if name in before and name in after:
            cells = (_rate(before[name]), _rate(after[name]), f"{change:+.2f} [{low:+.2f}, {high:+.2f}]")
            table.add_row(name.replace("_", " "), *cells)
    table.add_row("length, tokens", str(before["length_tokens"]), str(after["length_tokens"]), "")
    return table


def _rate(found: dict[str, Any]) -> str:
    low, high = found["interval"]
    return f"{found['rate']:.2f} [{low:.2f}, {high:.2f}] of {found['of']}"


def _say_how_to_go_on(console: Console, settings: Settings) -> None:
    dashboard = settings.dashboard
    console.print(f"\nEverything is kept in {settings.home} ({REPORT} holds the figures).", soft_wrap=True)
    console.print(f"Keep it running:  .venv/bin/flywheel --home {settings.home} up", soft_wrap=True)
    console.print(f"The dashboard is then at http://{dashboard.host}:{dashboard.port}", soft_wrap=True)
