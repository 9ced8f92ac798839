"""The `flywheel` command: everything a page of the dashboard can do, a command can do.

Here are those that run the appliance; who decides finds theirs in `flywheel/decisions.py`.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from flywheel import show
from flywheel.commands import Actor, AsJson, app, command, console, keys_app, login, open_api
from flywheel.decisions import audit, card, experiment, lineage, merge, promote, promotions, reject, rollback
from flywheel.errors import UserError
from flywheel.prompt_commands import prompts
from flywheel.settings import PREFIX, Settings, load_settings
from flywheel.titles import title_of

__all__ = ["app"]


@app.callback()
def configure(
    home: Annotated[Path | None, typer.Option(help="The data directory (FLYWHEEL_HOME).")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="A setting, e.g. serving.port=9000.")] = None,
) -> None:
    """Flags are put into the environment, so that every process we start sees the same settings."""
    if home is not None:
        os.environ[PREFIX + "HOME"] = str(home.resolve())
    for assignment in setting or []:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise typer.BadParameter(f"--set wants name=value, not {assignment!r}")
        os.environ[PREFIX + name.upper().replace(".", "__")] = value


def _settings_with_home() -> Settings:
    settings = load_settings()
    settings.home.mkdir(parents=True, exist_ok=True)
    return settings


@command
def demo(
    yes: Annotated[bool, typer.Option("--yes", help="Answer the operator's question with yes.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer simulated users: for a machine check, not for figures.")
    ] = False,
) -> None:
    """Turn the whole wheel once, on real parts, and tell what happens."""
    from flywheel.demo.run import run_demo  # noqa: PLC0415  (openai costs every other command a second)

    raise SystemExit(run_demo(approve_without_asking=yes, quick=quick))


@command
def up() -> None:
    """Run the appliance in the foreground: engine, API, worker, dashboard, and a status view."""
    from flywheel.up import run_appliance  # noqa: PLC0415  (the database library, as above)

    run_appliance(_settings_with_home(), console)


@command
def status(as_json: AsJson = False) -> None:
    """What is live, what is being tried, and how much there is of everything."""
    show.status(console, open_api().get("/v1/status"), as_json=as_json)


@command
def doctor(as_json: AsJson = False) -> None:
    """Check this machine: versions, ports, disk, memory, base model, engine flags; and what mends each fault."""
    from flywheel.doctor import examine  # noqa: PLC0415  (the database library costs every other command half a second)

    findings = examine(load_settings())
    show.findings(console, findings, as_json=as_json)
    raise SystemExit(0 if all(finding.ok for finding in findings) else 1)


@command
def ingest(files: Annotated[list[Path], typer.Argument(help="Markdown or text files, or folders of them.")]) -> None:
    """Put documents into the knowledge that answers are grounded in."""
    api, paths = open_api(), [path for given in files for path in _documents_in(given)]
    with show.progress(console) as bar:
        for path in bar.track(paths, description="Ingesting"):
            document = api.post("/v1/documents", {"title": title_of(path), "text": path.read_text(), "actor": login()})
            bar.console.print(f"{path.name}: {document['chunks']} passages")


def _documents_in(path: Path) -> list[Path]:
    if not path.exists():
        raise UserError(f"There is no file or folder {path}.")
    found = sorted(file for file in path.rglob("*") if file.suffix in {".md", ".txt"}) if path.is_dir() else [path]
    if not found:
        raise UserError(f"{path} holds no .md or .txt files.")
    return found


@command
def turn(actor: Actor = "", wait: Annotated[bool, typer.Option(help="Follow the run to its end.")] = True) -> None:
    """Ask for a turn: freeze a dataset version, train, gate, publish, open an experiment."""
    api = open_api()
    run = api.post("/v1/runs", {"requested_by": actor or login()})
    console.print(f"Run {run['id']} is queued.")
    if wait:
        ended = show.follow_run(console, lambda: api.get(f"/v1/runs/{run['id']}"))
        raise SystemExit(0 if ended["state"] == "succeeded" else 1)


@command
def runs(as_json: AsJson = False) -> None:
    """The training runs, newest first."""
    show.rows(
        console, open_api().get("/v1/runs")["data"], ("id", "state", "dataset", "adapter", "error"), as_json=as_json
    )


@command
def dataset(as_json: AsJson = False) -> None:
    """The frozen dataset versions, newest first."""
    fields = ("name", "train_rows", "validation_rows", "created_at")
    show.rows(console, open_api().get("/v1/datasets")["data"], fields, as_json=as_json)


@command
def gate(adapter: Annotated[str, typer.Argument(help="An adapter's name.")], as_json: AsJson = False) -> None:
    """The offline gate's report on an adapter."""
    show.gate(console, open_api().get(f"/v1/adapters/{adapter}"), as_json=as_json)


for one in (prompts, experiment, promote, reject, rollback, merge, promotions, lineage, card, audit):
    command(one)


@partial(command, into=keys_app)
def create(
    name: Annotated[str, typer.Argument(help="The person or program that will hold it.")],
    scope: Annotated[
        str, typer.Option(help="chat, review, operate or admin; each allows the ones before it.")
    ] = "chat",
    tenant: Annotated[str, typer.Option(help="Whose records; without it, the appliance's own.")] = "",
    days: Annotated[int | None, typer.Option(help="Days until it ends.")] = None,
    limit: Annotated[
        list[str] | None, typer.Option(help="requests_per_minute=N, tokens_per_minute=N or at_once=N; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. Its secret is shown this once."""
    limits = dict(one.partition("=")[::2] for one in limit or [])
    body = {"name": name, "scope": scope, "tenant": tenant or None, "days": days, "actor": login(), "limits": limits}
    made = open_api().post("/v1/keys", body)
    show.value(
        console, made, f"{made['secret']}\nThis is {made['id']} for {name}; the secret is not kept.", as_json=as_json
    )


@partial(command, into=keys_app)
def list_(as_json: AsJson = False) -> None:
    """Every key, newest first; never a secret."""
    fields = ("id", "prefix", "name", "tenant", "scope", "state", "last_used_at")
    show.rows(console, open_api().get("/v1/keys")["data"], fields, as_json=as_json)


@partial(command, into=keys_app)
def revoke(key: Annotated[str, typer.Argument(help="Its id, or the prefix that the list shows.")]) -> None:
    """End a key for good, within a second."""
    gone = open_api().post(f"/v1/keys/{key}/revoke", {"actor": login()})
    console.print(f"{gone['id']} of {gone['name']} is revoked.")
