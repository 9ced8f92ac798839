"""The prompts of the three routes, exactly as the starter base model was trained on them.

`PROMPT_VERSION` is a hash of their wording, and stands in every interaction that was routed: an edited prompt is
another version. A client's own system message is kept, as a second paragraph below ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from flywheel.interactions import Passage
from flywheel.messages import Message, message_text

KNOWLEDGE = "Answer from the passages and cite the one you use."
PASSAGE = "[{number}] {document} – {section}: {text}"
NO_PASSAGES = "(There are no passages.)"
SMALL_TALK = "You are a friendly help desk. Answer in one short sentence."
REFUSE = "Politely decline: this question is outside what the help desk covers."
WORDING = (KNOWLEDGE, PASSAGE, NO_PASSAGES, SMALL_TALK, REFUSE)
PROMPT_VERSION = hashlib.sha256("\n".join(WORDING).encode()).hexdigest()[:12]


def knowledge_prompt(messages: Sequence[Message], passages: Sequence[Passage]) -> list[Message]:
    """Ask for an answer from the passages, each with the number that the answer cites."""
    lines = [
        PASSAGE.format(number=found.number, document=found.document, section=found.section, text=found.text)
        for found in passages
    ]
    return with_system(messages, "\n".join([KNOWLEDGE, *(lines or [NO_PASSAGES])]))


def small_talk_prompt(messages: Sequence[Message]) -> list[Message]:
    """Ask for one friendly sentence."""
    return with_system(messages, SMALL_TALK)


def refuse_prompt(messages: Sequence[Message]) -> list[Message]:
    """Ask for a polite no."""
    return with_system(messages, REFUSE)


def with_system(messages: Sequence[Message], ours: str) -> list[Message]:
    """`messages` below one system message: ours first, then what the client's own ones say."""
    theirs = [message_text(message) for message in messages if message.get("role") in ("system", "developer")]
    turns = [message for message in messages if message.get("role") not in ("system", "developer")]
    return [{"role": "system", "content": "\n\n".join([ours, *filter(None, theirs)])}, *turns]
