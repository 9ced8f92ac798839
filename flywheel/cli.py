"""The `flywheel` command: everything a page of the dashboard can do, a command can do.

Commands are thin: most ask the HTTP API of a running appliance and print a table, or JSON with --json. Whatever a
person can mend is one line on stderr and exit code 1.
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec

import typer
from rich.console import Console

from flywheel import show
from flywheel.client import ApiClient
from flywheel.errors import FlywheelError, UserError
from flywheel.settings import PREFIX, Settings, load_settings
from flywheel.titles import title_of

P = ParamSpec("P")
app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=__doc__.split("\n")[0]
)
keys_app = typer.Typer(no_args_is_help=True, help="API keys: who may call, for which tenant, and how much.")
app.add_typer(keys_app, name="keys")
console = Console()
_ending = ExitStack()
"""What a command that asks the API gives back when it ends."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the ledger.")]
Actor = Annotated[str, typer.Option("--as", help="Your name; kept in the ledger and the audit.")]


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


def command(function: Callable[P, None], *, into: typer.Typer = app) -> Callable[P, None]:
    """Register a command whose FlywheelErrors end as one line and exit code 1."""

    @wraps(function)
    def guarded(*arguments: P.args, **options: P.kwargs) -> None:
        try:
            function(*arguments, **options)
        except FlywheelError as error:
            print(f"flywheel: {error}", file=sys.stderr)
            raise SystemExit(1) from None
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        finally:
            _ending.close()

    return into.command(function.__name__.strip("_"))(guarded)


def _api() -> ApiClient:
    from flywheel.local_key import local_key  # noqa: PLC0415  (the database library, as above)

    settings = load_settings()
    return ApiClient(settings.api_url, key=_ending.enter_context(local_key(settings)))


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
    show.status(console, _api().get("/v1/status"), as_json=as_json)


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
    api, paths = _api(), [path for given in files for path in _documents_in(given)]
    with show.progress(console) as bar:
        for path in bar.track(paths, description="Ingesting"):
            document = api.post("/v1/documents", {"title": title_of(path), "text": path.read_text(), "actor": _login()})
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
    api = _api()
    run = api.post("/v1/runs", {"requested_by": actor or _login()})
    console.print(f"Run {run['id']} is queued.")
    if wait:
        ended = show.follow_run(console, lambda: api.get(f"/v1/runs/{run['id']}"))
        raise SystemExit(0 if ended["state"] == "succeeded" else 1)


@command
def runs(as_json: AsJson = False) -> None:
    """The training runs, newest first."""
    show.rows(console, _api().get("/v1/runs")["data"], ("id", "state", "dataset", "adapter", "error"), as_json=as_json)


@command
def dataset(as_json: AsJson = False) -> None:
    """The frozen dataset versions, newest first."""
    fields = ("name", "train_rows", "validation_rows", "created_at")
    show.rows(console, _api().get("/v1/datasets")["data"], fields, as_json=as_json)


@command
def gate(adapter: Annotated[str, typer.Argument(help="An adapter's name.")], as_json: AsJson = False) -> None:
    """The offline gate's report on an adapter."""
    show.gate(console, _api().get(f"/v1/adapters/{adapter}"), as_json=as_json)


@command
def experiment(as_json: AsJson = False) -> None:
    """The newest experiment with its evidence."""
    api = _api()
    newest = api.get("/v1/experiments", limit=1)["data"]
    if not newest:
        raise UserError("There has been no experiment yet: `flywheel turn` trains an adapter and opens one.")
    show.experiment(console, api.get(f"/v1/experiments/{newest[0]['id']}"), as_json=as_json)


@command
def promote(
    reason: Reason,
    actor: Actor = "",
    evidence: Annotated[
        str, typer.Option(help="The evidence hash you looked at; without it, you are shown it and asked.")
    ] = "",
    override: Annotated[bool, typer.Option(help="Promote without the verdict SHIP.")] = False,
) -> None:
    """Make the challenger of the running experiment live."""
    api = _api()
    running = _running_experiment(api)
    if not evidence:
        show.experiment(console, running, as_json=False)
        if not typer.confirm(f"Promote {running['challenger']}?"):
            raise SystemExit(1)
    body = {"act": "promote", "experiment_id": running["id"], "evidence_hash": evidence or running["evidence_hash"]}
    done = api.post("/v1/promotions", body | {"actor": actor or _login(), "reason": reason, "override": override})
    console.print(f"{done['adapter']} is live.")


@command
def reject(reason: Reason, actor: Actor = "") -> None:
    """End the running experiment; the champion stays live."""
    api = _api()
    body = {
        "act": "reject",
        "experiment_id": _running_experiment(api)["id"],
        "actor": actor or _login(),
        "reason": reason,
    }
    done = api.post("/v1/promotions", body)
    console.print(f"{done['adapter']} is rejected; {done['previous']} stays live.")


@command
def rollback(
    reason: Reason,
    actor: Actor = "",
    to: Annotated[str, typer.Option(help="An adapter that was live before; without it, the previous one.")] = "",
) -> None:
    """Make an earlier adapter live again."""
    body = {"act": "roll_back", "adapter": to or None, "actor": actor or _login(), "reason": reason}
    done = _api().post("/v1/promotions", body)
    console.print(f"{done['adapter']} is live again.")


def _running_experiment(api: ApiClient) -> dict[str, Any]:
    running = [row for row in api.get("/v1/experiments")["data"] if row["state"] == "running"]
    if not running:
        raise UserError("No experiment is running. `flywheel turn` trains a challenger and opens one.")
    return api.get(f"/v1/experiments/{running[0]['id']}")


@command
def lineage(completion_id: str, as_json: AsJson = False) -> None:
    """From one answer back to the adapter, run, dataset version, pairs, judgments and ratings that shaped it."""
    show.lineage(console, _api().get(f"/v1/lineage/{completion_id}"), as_json=as_json)


@command
def audit(
    what: Annotated[Literal["list", "verify"], typer.Argument(help="verify: recompute the chain of hashes.")] = "list",
    head: Annotated[str, typer.Option(help="verify: a newest hash that was kept elsewhere; a cut-off end shows.")] = "",
    as_json: AsJson = False,
) -> None:
    """Who did what, newest first; or whether the chain of hashes is whole, and its newest hash to keep elsewhere."""
    if what == "list":
        fields = ("position", "created_at", "actor", "act", "subject")
        return show.rows(console, _api().get("/v1/audit")["data"], fields, as_json=as_json)
    found = _api().get("/v1/audit/verify", head=head or None)
    broken, whole = found["first_broken_position"], f"The chain of {found['entries']} entries is whole"
    sentence = f"{whole}; head {found['head']}" if broken is None else f"Broken at position {broken}."
    show.value(console, found, sentence, as_json=as_json)
    raise SystemExit(0 if broken is None else 1)


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
    body = {"name": name, "scope": scope, "tenant": tenant or None, "days": days, "actor": _login(), "limits": limits}
    made = _api().post("/v1/keys", body)
    show.value(
        console, made, f"{made['secret']}\nThis is {made['id']} for {name}; the secret is not kept.", as_json=as_json
    )


@partial(command, into=keys_app)
def list_(as_json: AsJson = False) -> None:
    """Every key, newest first; never a secret."""
    fields = ("id", "prefix", "name", "tenant", "scope", "state", "last_used_at")
    show.rows(console, _api().get("/v1/keys")["data"], fields, as_json=as_json)


@partial(command, into=keys_app)
def revoke(key: Annotated[str, typer.Argument(help="Its id, or the prefix that the list shows.")]) -> None:
    """End a key for good, within a second."""
    gone = _api().post(f"/v1/keys/{key}/revoke", {"actor": _login()})
    console.print(f"{gone['id']} of {gone['name']} is revoked.")


def _login() -> str:
    return getpass.getuser()
