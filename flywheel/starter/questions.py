"""Makes `questions.jsonl`: what simulated users ask the sample help centre, and what a right answer must hold.

Three splits that share no question and no fact: `users` (the demo's traffic), `gate` (checks before an adapter may go
live) and `heldout` (the table at the end). `facts.txt` lists the facts of `helpcentre/*.md`. The same seed gives the
same file: `python -m flywheel.starter.questions` writes it, a test compares.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NotRequired, TypedDict

from flywheel.starter import phrasing
from flywheel.starter.attributes import Attribute, attributes, attributes_of, rivals
from flywheel.starter.prompt import Message

HERE = Path(__file__).parent
HELP_CENTRE = HERE / "helpcentre"
FACTS = HERE / "facts.txt"
QUESTIONS = HERE / "questions.jsonl"
SEED = 7
SHARES = {"users": 0.5, "gate": 0.25, "heldout": 0.25}
UNANSWERABLE = {"users": 80, "gate": 72, "heldout": 36}
CHATTER = {"users": 30, "gate": 14, "heldout": 14}
PHRASINGS = {"users": 3, "gate": 2, "heldout": 2}
KINDS = {
    "shop": "place", "cafe": "place", "card": "pass", "voucher": "pass", "kayak": "vehicle", "canoe": "vehicle",
    "bike": "vehicle", "tour": "tour", "cruise": "tour", "course": "course", "workshop": "course", "room": "room",
    "repair": "service", "app": "software", "membership": "plan", "festival": "event",
    "museum": "place", "library": "place", "hostel": "place", "gym": "place", "plan": "plan", "tariff": "plan",
    "lamp": "thing", "tent": "thing", "camera": "thing", "stove": "thing", "seminar": "course", "camp": "course",
    "hike": "tour", "safari": "tour", "hall": "room", "cabin": "room", "cleaning": "service", "hotline": "service",
    "concert": "event", "fair": "event", "portal": "software", "scooter": "vehicle", "ticket": "pass", "soup": "food",
}  # fmt: skip


class Question(TypedDict):
    """One line of the file. `expected` holds texts of which any must stand in the answer; empty: there is none."""

    id: NotRequired[str]
    split: str
    kind: str
    messages: list[Message]
    expected: list[str]
    document: str
    section: str


@dataclass(frozen=True)
class Stated:
    """A fact of the sample help centre: where it stands, and what it says."""

    document: str
    section: str
    attribute: Attribute
    entity: str
    value: str


def sections(document: Path) -> Iterator[tuple[str, str, str]]:
    """(title, section, text) of each section of a document."""
    title, *parts = document.read_text(encoding="utf-8").split("\n## ")
    for part in parts:
        section, text = part.split("\n", 1)
        yield title.strip().removeprefix("# "), section.strip(), " ".join(text.split())


def stated_facts() -> list[Stated]:
    """The facts of the sample help centre, in the order of the table."""
    table = {attribute.key: attribute for attribute in attributes()}
    rows = [line.split(" | ") for line in FACTS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [Stated(document, section, table[key], entity, value) for document, section, key, entity, value in rows]


def spellings(value: str) -> list[str]:
    """The value, and other ways to write it that are as right."""
    if value.endswith(" €"):
        amount = value.removesuffix(" €")
        return [value, f"€{amount}", f"{amount} euros", f"{amount} EUR", amount]
    if value.endswith(" %"):
        return [value, f"{value.removesuffix(' %')} percent"]
    if value.endswith("day"):
        return [value, f"{value}s"]
    return [value, value.removesuffix("s")] if value.endswith("days") and value[0].isalpha() else [value]


def deal(random: Random, facts: list[Stated]) -> dict[str, list[Stated]]:
    """Facts per split: the facts of one section stay together."""
    places = sorted({(fact.document, fact.section) for fact in facts})
    random.shuffle(places)
    dealt: dict[str, list[Stated]] = {split: [] for split in SHARES}
    for split, share in SHARES.items():
        while places and (len(dealt[split]) < share * len(facts) or split == "heldout"):
            place = places.pop()
            dealt[split] += [fact for fact in facts if (fact.document, fact.section) == place]
    return dealt


def answerable(random: Random, fact: Stated, friends: list[Stated]) -> list[Message]:
    """A conversation whose last turn asks for a fact; one in seven follows up on another fact of the same entity."""
    about = [other for other in friends if other.entity == fact.entity and other != fact]
    if about and random.random() < 0.15:
        before = random.choice(about)
        said = f"The {random.choice(before.attribute.nouns.known)} of {before.entity} is {before.value}."
        return [
            {"role": "user", "content": phrasing.ask(random, before.attribute, before.entity)},
            {"role": "assistant", "content": said},
            {"role": "user", "content": phrasing.ask_on(random, fact.attribute)},
        ]
    held_out = random.random() < 0.2
    return [{"role": "user", "content": phrasing.ask(random, fact.attribute, fact.entity, held_out=held_out)}]


def missing(facts: list[Stated]) -> list[tuple[str, Attribute]]:
    """What could be asked about each entity, and the help centre does not say."""
    pairs: list[tuple[str, Attribute]] = []
    for entity in sorted({fact.entity for fact in facts}):
        said = {fact.attribute.key for fact in facts if fact.entity == entity}
        possible = attributes_of(KINDS[entity.split()[-1]], held_out=False)
        pairs += [(entity, a) for a in possible if a.key not in said and not rivals(a.key) & said]
    return pairs


def lone(split: str, kind: str, text: str) -> Question:
    """A question that no passage answers."""
    messages: list[Message] = [{"role": "user", "content": text}]
    return {"split": split, "kind": kind, "messages": messages, "expected": [], "document": "", "section": ""}


def of_split(
    random: Random, split: str, facts: list[Stated], absent: list[tuple[str, Attribute]]
) -> Iterator[Question]:
    """The questions of one split; some may be alike, the caller drops repeats."""
    for fact in facts:
        for _ in range(PHRASINGS[split]):
            yield {
                "split": split, "kind": "answerable", "messages": answerable(random, fact, facts),
                "expected": spellings(fact.value), "document": fact.document, "section": fact.section,
            }  # fmt: skip
    for entity, attribute in absent:
        yield lone(split, "unanswerable", phrasing.ask(random, attribute, entity, held_out=random.random() < 0.2))
    for _ in range(CHATTER[split]):
        yield lone(split, "small_talk", phrasing.small_talk(random, held_out=split == "heldout")[0])
        yield lone(split, "out_of_scope", phrasing.out_of_scope(random, held_out=split == "heldout"))


def last_words(question: Question) -> str:
    """What tells questions apart: the whole conversation, without case."""
    return " / ".join(message["content"].casefold().strip("?!. ") for message in question["messages"])


def make_questions(seed: int = SEED) -> list[Question]:
    """All questions, no two alike, numbered within their split."""
    random = Random(seed)
    facts = stated_facts()
    dealt, absent = deal(random, facts), missing(facts)
    random.shuffle(absent)
    seen: set[str] = set()
    questions: list[Question] = []
    for split in SHARES:
        count, number = UNANSWERABLE[split], 0
        for question in of_split(random, split, dealt[split], absent[:count]):
            if last_words(question) not in seen:
                seen.add(last_words(question))
                number += 1
                questions.append({**question, "id": f"{split}-{number:03d}"})
        absent = absent[count:]
    return questions


def written(questions: list[Question]) -> str:
    """The file's text."""
    order = ("id", "split", "kind", "messages", "expected", "document", "section")
    return "".join(json.dumps({key: dict(q)[key] for key in order}, ensure_ascii=False) + "\n" for q in questions)


if __name__ == "__main__":
    QUESTIONS.write_text(written(make_questions()), encoding="utf-8")
