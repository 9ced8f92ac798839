"""What can be said about something in a help centre: its price, its hours, its floor.

The table is `attributes.txt`. An attribute has noun phrases ("late fee"), question wordings ("how much is {e}") and
statement wordings ("{e} costs {v}"). A wording marked `~` is held out: no training text contains it. An attribute whose
key is marked `~` is held out whole. Composed attributes ("guest badge number") are drawn from word tables, so that a
reader has to match words instead of remembering a list; one composed phrase in eight is held out too.
"""

import zlib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random

from flywheel.starter.tables import Wordings, pick, split_wordings, table

TABLE = Path(__file__).with_name("attributes.txt")


@dataclass(frozen=True)
class Attribute:
    """One kind of fact. `entities` are the kinds of things that have it; `value` is a kind of `values.KINDS`."""

    key: str
    value: str
    entities: tuple[str, ...]
    nouns: Wordings
    questions: Wordings
    statements: tuple[str, ...]
    follow_ups: tuple[str, ...] = ()
    held_out: bool = False

    def narrowed(self, width: float) -> "Attribute":
        """The same attribute with fewer known wordings: at width 0 two questions, one noun, one statement are left."""
        if width >= 1:
            return self
        return replace(
            self,
            nouns=replace(self.nouns, known=share_of(self.nouns.known, width, least=1)),
            questions=replace(self.questions, known=share_of(self.questions.known, width, least=2)),
            statements=share_of(self.statements, width, least=1),
        )


def share_of(texts: tuple[str, ...], width: float, *, least: int) -> tuple[str, ...]:
    """The first texts: `least` of them at width 0, all at width 1."""
    return texts[: max(least, round(len(texts) * width))]


def read_attribute(block: str) -> Attribute:
    """One block of the table."""
    head, *lines = block.strip().splitlines()
    key, value, entities = (part.strip() for part in head.split(":"))
    fields = dict(line.split(" ", 1) for line in lines)
    return Attribute(
        key=key.lstrip("~"),
        value=value,
        entities=tuple(entities.split()),
        nouns=split_wordings(fields["np"]),
        questions=split_wordings(fields["q"]),
        statements=tuple(fields["s"].split("|")),
        follow_ups=tuple(fields["f"].split("|")) if "f" in fields else (),
        held_out=key.startswith("~"),
    )


@cache
def attributes() -> tuple[Attribute, ...]:
    """The whole table, held-out attributes included."""
    blocks = TABLE.read_text(encoding="utf-8").split("## ")[1:]
    return tuple(read_attribute(block) for block in blocks)


@cache
def attributes_of(entity_kind: str, *, held_out: bool) -> tuple[Attribute, ...]:
    """What can be said about a kind of entity."""
    return tuple(a for a in attributes() if entity_kind in a.entities and a.held_out == held_out)


@cache
def rivals(key: str) -> frozenset[str]:
    """Attributes that a question about `key` could also mean: one context never states both of one entity."""
    groups = (group.split() for group in table("rivals").split("|"))
    return frozenset(other for group in groups if key in group for other in group) - {key}


def compose(random: Random, *, held_out: bool) -> Attribute:
    """An attribute made of a modifier and a noun; whether the phrase is held out follows from its spelling."""
    while True:
        noun, value = pick(random, table("composed_nouns")).split(":")
        phrase = f"{pick(random, table('composed_modifiers'))} {noun}"
        if (zlib.crc32(phrase.encode()) % 8 == 0) == held_out:
            break
    statements = (
        f"the {phrase} of {{e}} is {{v}}", f"the {phrase} for {{e}} is {{v}}", f"for {{e}}, the {phrase} is {{v}}",
        f"{{e}} has the {phrase} {{v}}", f"at {{e}} the {phrase} is {{v}}", f"the {phrase} at {{e}} is {{v}}",
    )  # fmt: skip
    return Attribute(phrase, value, (), Wordings((phrase,), ()), Wordings((), ()), statements, (), held_out)
