"""The stage that gives the appliance something to answer from, and asks it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from flywheel.client import ApiClient
from flywheel.demo.questions import Question, questions
from flywheel.demo.stages import OPERATOR, SaidNoError, Turn
from flywheel.starter.questions import HELP_CENTRE
from flywheel.titles import title_of

MOST_ASKED = 5
"""Questions asked for a cited answer: the starter leaves most citations out, which is one of its flaws."""


def ingest_help_centre(turn: Turn) -> None:
    """Documents into Chroma, then questions, streamed, until an answer cites."""
    files = sorted(HELP_CENTRE.glob("*.md"))
    with turn.tell.bar("documents", len(files)) as step:
        chunks = 0
        for file in files:
            chunks += _ingest(turn.api, file)
            step()
    turn.tell.say(f"{len(files)} documents of the sample help centre are {chunks} passages in Chroma now.")
    answerable = (question for question in questions("users") if question.kind == "answerable")
    for question in islice(answerable, MOST_ASKED):
        passages = _ask(turn, question)
        if any(passage["cited"] for passage in passages):
            break
    for passage in passages:
        cited = "cited" if passage["cited"] else "shown"
        turn.tell.say(f"[{passage['number']}] {passage['document']} – {passage['section']} ({cited})")


def _ask(turn: Turn, question: Question) -> list[dict[str, Any]]:
    """The passages that the answer had."""
    turn.tell.say(f"Someone asks: {question.messages[-1]['content']}")
    turn.console.print("   Answer, streamed: ", end="")
    answer = turn.people.stream(
        question, user="somebody", on_text=lambda text: turn.console.out(text, end="", highlight=False)
    )
    turn.console.print()
    if answer is None:
        raise SaidNoError("ingest", turn.people.tally.errors[-1])
    passages: list[dict[str, Any]] = turn.api.get(f"/v1/interactions/{answer.completion_id}")["passages"]
    return passages


def _ingest(api: ApiClient, file: Path) -> int:
    body = {"title": title_of(file), "text": file.read_text(), "actor": OPERATOR}
    return int(api.post("/v1/documents", body)["chunks"])
