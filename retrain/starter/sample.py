"""Prompts about the sample help centre, as serving would build them: the right section among three, in any place.

The other two are the sections that share most words with the question: other facts of the same thing, and the same
fact of other things.
"""

import json
import re
from dataclasses import dataclass
from random import Random

from flywheel.starter.prompt import DECLINE, PASSAGES, SMALL_TALK, Message, knowledge_system
from flywheel.starter.questions import HELP_CENTRE, QUESTIONS, Question, sections


@dataclass(frozen=True)
class Asked:
    """A question of the sample, its prompt, and the number of the right passage (0 where there is none)."""

    question: Question
    messages: list[Message]
    citation: int


def words(text: str) -> set[str]:
    """The words of a text, for overlap."""
    return set(re.findall(r"\w+", text.casefold())) - {"the", "of", "for", "is", "what", "a", "in", "i"}


def all_sections() -> dict[tuple[str, str], tuple[str, str, str]]:
    """(document, section) → (title, section, text) of the sample help centre."""
    found = [(path.name, part) for path in sorted(HELP_CENTRE.glob("*.md")) for part in sections(path)]
    return {(name, part[1]): part for name, part in found}


def put_question(random: Random, question: Question, places: dict[tuple[str, str], tuple[str, str, str]]) -> Asked:
    """The prompt of one question on its route."""
    if question["kind"] in ("small_talk", "out_of_scope"):
        system = SMALL_TALK if question["kind"] == "small_talk" else DECLINE
        return Asked(question, [{"role": "system", "content": system}, *question["messages"]], 0)
    asked = words(" ".join(message["content"] for message in question["messages"]))
    right = (question["document"], question["section"])
    near = sorted((p for p in places if p != right), key=lambda p: -len(asked & words(" ".join(places[p]))))
    chosen = [right, *near[: PASSAGES - 1]] if right in places else near[:PASSAGES]
    random.shuffle(chosen)
    system = knowledge_system([places[place] for place in chosen])
    citation = chosen.index(right) + 1 if right in places else 0
    return Asked(question, [{"role": "system", "content": system}, *question["messages"]], citation)


def sample_prompts(seed: int) -> list[Asked]:
    """Every question of `questions.jsonl` with its prompt."""
    random, places = Random(seed), all_sections()
    lines = QUESTIONS.read_text(encoding="utf-8").splitlines()
    return [put_question(random, json.loads(line), places) for line in lines]
