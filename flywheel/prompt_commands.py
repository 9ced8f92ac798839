"""`flywheel prompts`: the wordings of the routes' prompts, listed, shown as TOML to edit, and added."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flywheel import show
from flywheel.commands import Actor, AsJson, console, login, open_api
from flywheel.errors import UserError
from flywheel.variants import SHIPPED

HEAD = "# Edit, then: flywheel prompts add FILE.toml --note WHY\n"


def prompts(
    what: Annotated[Literal["list", "show", "add"], typer.Argument(help="show VERSION; add FILE.toml.")] = "list",
    which: Annotated[str, typer.Argument(help="A version (shipped: Flywheel's own); or the file to add.")] = "",
    note: Annotated[str, typer.Option(help="add: what it is to be better at.")] = "",
    actor: Actor = "",
    as_json: AsJson = False,
) -> None:
    """The wordings of the prompts; `flywheel experiment --prompt VERSION` tries one on live users."""
    if what == "add":
        if not which:
            raise UserError("Name the file: `flywheel prompts show > FILE.toml` writes one to edit.")
        body = {"wording": read_file(Path(which)), "note": note, "actor": actor or login()}
        made = open_api().post("/v1/prompts", body)
        words = f"{made['version']} is kept: `flywheel experiment --prompt {made['version']}` tries it."
        return show.value(console, made, words, as_json=as_json)
    if what == "show":
        found = open_api().get(f"/v1/prompts/{which or SHIPPED}")
        if as_json:
            return show.value(console, found, "", as_json=True)
        sys.stdout.write(to_toml(found["wording"]))
        return None
    listed = open_api().get("/v1/prompts")
    rows = [row | {"live": "live" if row["version"] == listed["live"] else ""} for row in listed["data"]]
    return show.rows(console, rows, ("version", "live", "note", "actor", "created_at"), as_json=as_json)


def read_file(path: Path) -> dict[str, Any]:
    """The parts of a wording, as they are written. Raises UserError; what they say is checked by the API."""
    try:
        parts = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise UserError(f"{path} is not valid TOML: {error}.") from error
    if no_text := [name for name, part in parts.items() if not isinstance(part, str)]:
        raise UserError(f"{path}: {', '.join(no_text)} is no text. Write it in quotes.")
    return parts


def to_toml(wording: dict[str, str]) -> str:
    """A wording that `add` takes back as it was."""
    return HEAD + "".join(f"{name} = {_quoted(text)}\n" for name, text in wording.items())


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"""\n{escaped}"""' if "\n" in text else f'"{escaped}"'
