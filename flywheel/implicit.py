"""Implicit signals: what a later request tells about an earlier answer, without anybody having rated it.

Rules, each a name of feedback with source `implicit`. `earlier` and `later` are neighbours in one conversation.

| name | given to | holds when | value |
|---|---|---|---|
| regenerate | earlier | the very same messages were sent again | 1 |
| reask | earlier | the new question has nearly the words of the old one | their overlap (Jaccard), at least .7 |
| edit | earlier | the client sent the answer back changed, but still recognisable | share of it that changed |
| copy | earlier | the new question repeats eight or more words in a row of the answer | their share of the answer |
| next_turn_seconds | earlier | there is a later turn | seconds from the answer's end to the next question |
| abandon | the row itself | the client left before the answer's end | 1 |

That an answer was read to its end needs no row: its status is `finished`. Not covered: anything that a page would have
to report (scrolling, dwell time).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from flywheel.interactions import CLOSED, Interaction
from flywheel.messages import last_user_text, message_text

REASK_OVERLAP = 0.7
EDIT_LIKENESS = 0.5
COPIED_WORDS = 8
MOST_WORDS = 1000
"""Longer texts are not compared: the time grows with the product of their lengths."""
SOURCE = "implicit"


@dataclass(frozen=True)
class Signal:
    """One finding about the answer `completion_id`; `because` is the row that showed it."""

    completion_id: str
    name: str
    value: float
    because: str


def words_in(text: str) -> list[str]:
    """Its words, without case and marks."""
    return re.findall(r"\w+", text.casefold())


def overlap(first: str, second: str) -> float:
    """Jaccard similarity of two texts' sets of words; 0 where either has none."""
    one, other = set(words_in(first)), set(words_in(second))
    return len(one & other) / len(one | other) if one and other else 0.0


def about_itself(row: Interaction) -> list[Signal]:
    """What a closed row says about its own answer."""
    return [Signal(row.id, "abandon", 1.0, row.id)] if row.status == "cancelled" else []


def about_earlier(earlier: Interaction, later: Interaction) -> list[Signal]:
    """What the next request of a conversation says about the answer before it."""
    found: dict[str, float] = {}
    if earlier.finished_at is not None and earlier.status in CLOSED:
        found["next_turn_seconds"] = max(0.0, (later.asked_at - earlier.finished_at).total_seconds())
    if earlier.messages and later.messages == earlier.messages:
        found["regenerate"] = 1.0
    elif earlier.messages and later.messages:
        found |= _of_the_words(earlier, later)
    return [Signal(earlier.id, name, value, later.id) for name, value in found.items()]


def _of_the_words(earlier: Interaction, later: Interaction) -> dict[str, float]:
    found: dict[str, float] = {}
    asked = last_user_text(later.messages)
    likeness = overlap(last_user_text(earlier.messages), asked)
    if likeness >= REASK_OVERLAP:
        found["reask"] = likeness
    answer = earlier.answer or ""
    sent_back = _sent_back(later.messages, place=len(earlier.messages))
    if answer and sent_back and sent_back.strip() != answer.strip():
        same = _likeness(answer.split(), sent_back.split())
        if EDIT_LIKENESS <= same < 1:
            found["edit"] = 1 - same
    copied = _longest_run(words_in(answer)[:MOST_WORDS], words_in(asked)[:MOST_WORDS])
    if copied >= COPIED_WORDS:
        found["copy"] = copied / len(words_in(answer))
    return found


def _sent_back(messages: list[dict[str, Any]], *, place: int) -> str:
    """The assistant's turn that a client put where our answer belongs."""
    message: Mapping[str, Any] = messages[place] if place < len(messages) else {}
    return message_text(message) if message.get("role") == "assistant" else ""


def _likeness(first: list[str], second: list[str]) -> float:
    """How much two texts share, word by word in order (Ratcliff and Obershelp); 0 for texts too long to compare."""
    if max(len(first), len(second)) > MOST_WORDS:
        return 0.0
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    return matcher.ratio() if matcher.quick_ratio() >= EDIT_LIKENESS else 0.0


def _longest_run(first: list[str], second: list[str]) -> int:
    return SequenceMatcher(None, first, second, autojunk=False).find_longest_match().size
