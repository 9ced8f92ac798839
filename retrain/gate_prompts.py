"""The gate's prompts: questions never used for tuning, each with what a right answer must hold.

A file of JSON lines: {"id", "messages", "kind", "expected": [any of these], "system"?}, kind one of answerable,
unanswerable, small_talk, out_of_scope. Named by retrain.gate_prompts, or, for the starter base model, made here from
its own sample help centre: the section that holds the answer and the two other sections that share most words with
the question, in an order drawn from the id. Serving's own retrieval plays no part: the gate judges the adapter alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from flywheel.errors import UserError
from flywheel.messages import Message, last_user_text
from flywheel.settings import STARTER, Settings
from flywheel.starter.prompt import DECLINE, PASSAGES, SMALL_TALK, knowledge_system

HELP_CENTRE = STARTER.parent / "helpcentre"
QUESTIONS = STARTER.parent / "questions.jsonl"


class Section(NamedTuple):
    """One passage of the help centre."""

    file: str
    document: str
    section: str
    text: str


class GatePrompt(BaseModel):
    """One prompt of the gate, as the base model is asked."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    messages: list[Message]
    kind: Literal["answerable", "unanswerable", "small_talk", "out_of_scope"]
    expected: list[str] = []
    system: str | None = None

    @property
    def asked(self) -> list[Message]:
        """The whole prompt, system message first."""
        return [{"role": "system", "content": self.system}, *self.messages] if self.system else self.messages


def gate_prompts(settings: Settings) -> list[GatePrompt]:
    """The operator's own, else the starter's, else none. Raises UserError when a file is wrong."""
    if settings.retrain.gate_prompts is not None:
        return read_prompts(settings.retrain.gate_prompts)
    if settings.base_model == "starter":
        return starter_prompts(split="gate")
    return []


def prompts_hash(prompts: Iterable[GatePrompt]) -> str:
    """What the gate asked, as one hash: two reports with the same one can be compared."""
    lines = [prompt.model_dump_json() for prompt in prompts]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_prompts(file: Path) -> list[GatePrompt]:
    """One prompt per line. Raises UserError that names the line."""
    if not file.is_file():
        raise UserError(f"retrain.gate_prompts: there is no file {file}. Mend the setting.")
    prompts = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        try:
            prompts.append(GatePrompt.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise UserError(f"{file}, line {number}: {place}: {first['msg']}. Mend the line.") from error
    return prompts


def starter_prompts(*, split: str) -> list[GatePrompt]:
    """The sample help centre's questions of one split, each with its passages."""
    questions = [json.loads(line) for line in QUESTIONS.read_text().splitlines()]
    sections = help_centre_sections()
    return [
        GatePrompt.model_validate(question | {"system": _system(question, sections)})
        for question in questions
        if question["split"] == split
    ]


def help_centre_sections(folder: Path = HELP_CENTRE) -> list[Section]:
    """Every section of every document, in a fixed order."""
    sections = []
    for file in sorted(folder.glob("*.md")):
        title, *parts = re.split(r"^#+ ", file.read_text(), flags=re.MULTILINE)[1:]
        for part in parts:
            heading, _, text = part.partition("\n")
            sections.append(Section(file.name, title.strip(), heading.strip(), " ".join(text.split())))
    return sections


def _system(question: dict[str, Any], sections: Sequence[Section]) -> str:
    if question["kind"] == "small_talk":
        return SMALL_TALK
    if question["kind"] == "out_of_scope":
        return DECLINE
    wanted = (question.get("document"), question.get("section"))
    answerable = question["kind"] == "answerable"
    right = [place for place in sections if answerable and (place.file, place.section) == wanted]
    asked = _words(last_user_text(question["messages"]))
    others = sorted(
        (place for place in sections if place not in right),
        key=lambda place: (-len(asked & _words(" ".join(place[1:]))), place),
    )
    chosen = (right + others)[:PASSAGES]
    chosen.sort(key=lambda place: _draw(question["id"], place))
    return knowledge_system([place[1:] for place in chosen])


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def _draw(seed: str, section: Section) -> str:
    return hashlib.sha256("\0".join((seed, *section)).encode()).hexdigest()
