"""The prompts that the starter base model was trained on. Serving builds the same ones.

A knowledge prompt holds one to three passages for the last question; small talk and declining have a fixed system
message.
"""

from collections.abc import Sequence
from typing import TypedDict

ANSWER = "Answer from the passages and cite the one you use."
SMALL_TALK = "You are a friendly help desk. Answer in one short sentence."
DECLINE = "Politely decline: this question is outside what the help desk covers."
PASSAGES = 3


class Message(TypedDict):
    """One turn, as the chat completions API writes it."""

    role: str
    content: str


def passage_line(number: int, title: str, section: str, text: str) -> str:
    """One numbered passage: "[1] Maple plan – Price: The Maple plan costs 12 €."."""
    return f"[{number}] {title} – {section}: {text}"


def knowledge_system(passages: Sequence[tuple[str, str, str]]) -> str:
    """The system message for (title, section, text) passages, numbered in their order."""
    lines = [passage_line(number, *passage) for number, passage in enumerate(passages, 1)]
    return "\n".join([ANSWER, *lines])
