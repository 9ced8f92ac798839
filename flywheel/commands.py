"""What every command of `flywheel` shares: the applications they belong to, the way they fail, and their client.

Commands are thin: most ask the HTTP API of a running appliance and print a table, or JSON with --json. Whatever a
person can mend is one line on stderr and exit code 1.
"""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import Annotated, ParamSpec

import typer
from rich.console import Console

from flywheel.client import ApiClient
from flywheel.errors import FlywheelError
from flywheel.settings import load_settings

P = ParamSpec("P")
app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Everything a page of the dashboard can do, a command can do.",
)
keys_app = typer.Typer(no_args_is_help=True, help="API keys: who may call, for which tenant, and how much.")
app.add_typer(keys_app, name="keys")
console = Console()
_ending = ExitStack()
"""What a command that asks the API gives back when it ends."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the ledger.")]
Actor = Annotated[str, typer.Option("--as", help="Your name; kept in the ledger and the audit.")]


def command(function: Callable[P, None], *, into: typer.Typer = app) -> Callable[P, None]:
    """Register a command whose FlywheelErrors end as one line and exit code 1."""

    @wraps(function)
    def guarded(*arguments: P.args, **options: P.kwargs) -> None:
        try:
            with _ending:
                function(*arguments, **options)
        except FlywheelError as error:
            print(f"flywheel: {error}", file=sys.stderr)
            raise SystemExit(1) from None
        except KeyboardInterrupt:
            raise SystemExit(130) from None

    return into.command(function.__name__.strip("_"))(guarded)


def open_api() -> ApiClient:
    """The running appliance's API, with the key in the settings or one that ends with the command."""
    from flywheel.local_key import local_key  # noqa: PLC0415  (half a second for every other command)

    settings = load_settings()
    return ApiClient(settings.api_url, key=_ending.enter_context(local_key(settings)))


def login() -> str:
    """Who is at this terminal."""
    return getpass.getuser()
