"""Reads `tables.txt`: the words that names, values and phrasings are drawn from.

A table is a line `name = alternative|alternative`. An alternative marked `~` is held out of training.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

TABLES = Path(__file__).with_name("tables.txt")


@dataclass(frozen=True)
class Wordings:
    """Ways to say one thing: those used in training, and those held out of it."""

    known: tuple[str, ...]
    held_out: tuple[str, ...]

    def choose(self, random: Random, *, held_out: bool) -> str:
        """A held-out wording where one is asked for and exists, else a known one."""
        return random.choice(self.held_out if held_out and self.held_out else self.known)


@cache
def tables() -> dict[str, str]:
    """Every table by its name."""
    lines = TABLES.read_text(encoding="utf-8").splitlines()
    return dict(line.split(" = ", 1) for line in lines if not line.startswith("#"))


def table(name: str) -> str:
    """The alternatives of one table, as they stand: "red|blue|green"."""
    return tables()[name]


@cache
def wordings(name: str) -> Wordings:
    """One table with its held-out alternatives apart."""
    return split_wordings(table(name))


def split_wordings(line: str) -> Wordings:
    """Alternatives, those marked `~` apart."""
    parts = line.split("|")
    return Wordings(
        tuple(part for part in parts if not part.startswith("~")),
        tuple(part[1:] for part in parts if part.startswith("~")),
    )


def pick(random: Random, words: str) -> str:
    """One of `|`-separated alternatives."""
    return random.choice(words.split("|"))
