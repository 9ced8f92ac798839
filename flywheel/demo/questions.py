"""The sample help centre's questions as the demo asks them: read from flywheel/starter/questions.jsonl, by split."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from flywheel.starter.questions import QUESTIONS


@dataclass(frozen=True)
class Question:
    """A conversation whose last turn asks something. `expected` holds texts of which any must stand in the answer."""

    id: str
    kind: str
    """answerable, unanswerable, small_talk or out_of_scope."""
    messages: list[dict[str, Any]]
    expected: list[str]


@cache
def questions(split: str) -> list[Question]:
    """The questions of a split (`users` or `heldout`; `gate` is the gate's alone), in the file's order."""
    rows = (json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines())
    return [Question(row["id"], row["kind"], row["messages"], row["expected"]) for row in rows if row["split"] == split]
