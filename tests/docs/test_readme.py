"""What the README promises exists: its commands, its settings, its files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from flywheel.cli import app
from tools.readme import README, with_settings

TEXT = README.read_text()
GROUPS = {"keys"}
"""Commands that have commands."""


def test_settings_table_is_that_of_the_code() -> None:
    assert with_settings(TEXT) == TEXT, "run `python -m tools.readme`"


@pytest.mark.parametrize("line", sorted(set(re.findall(r"^\.venv/bin/flywheel ([^#\n]*)", TEXT, re.MULTILINE))))
def test_command_in_the_readme_exists_with_its_options(line: str) -> None:
    words = line.split()
    options = {word for word in words if word.startswith("--")}
    name = words[: 2 if words[0] in GROUPS else 1]
    shown = CliRunner().invoke(app, [*name, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    assert shown.exit_code == 0, shown.output
    assert {option for option in options if option not in shown.output} == set()


def test_every_command_has_a_help_sentence() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert {"demo", "up", "status", "doctor", "promote", "rollback", "lineage"} <= set(commands)
    assert [name for name, one in commands.items() if not one.help] == []


@pytest.mark.parametrize("path", sorted(set(re.findall(r"^([a-z_]+/|[a-z]+\.[a-z]+)  ", TEXT, re.MULTILINE))))
def test_path_in_the_file_tree_exists(path: str) -> None:
    assert (README.parent / path).exists()


@pytest.mark.parametrize("picture", re.findall(r"!\[[^]]*\]\(([^)]+)\)", TEXT))
def test_picture_exists_and_is_small(picture: str) -> None:
    file = Path(README.parent / picture)
    assert file.is_file()
    assert file.stat().st_size <= 400_000
