"""The prompts of the three routes, rendered from a wording (`flywheel/prompt_versions.py`).

The hash of the wording stands in every interaction that was routed. A client's own system message is kept, as a second
paragraph below ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flywheel.interactions import Passage
from flywheel.messages import Message, message_text
from flywheel.prompt_versions import Wording

Compose = Callable[[Wording, Sequence[Message], Sequence[Passage]], list[Message]]


def knowledge_prompt(wording: Wording, messages: Sequence[Message], passages: Sequence[Passage]) -> list[Message]:
    """Ask for an answer from the passages, each with the number that the answer cites."""
    lines = [
        wording.passage.format(number=found.number, document=found.document, section=found.section, text=found.text)
        for found in passages
    ]
    return with_system(messages, "\n".join([wording.knowledge, *(lines or [wording.no_passages])]))


def small_talk_prompt(wording: Wording, messages: Sequence[Message], _found: Sequence[Passage] = ()) -> list[Message]:
    """Ask for one friendly sentence."""
    return with_system(messages, wording.small_talk)


def refuse_prompt(wording: Wording, messages: Sequence[Message], _found: Sequence[Passage] = ()) -> list[Message]:
    """Ask for a polite no."""
    return with_system(messages, wording.refuse)


def with_system(messages: Sequence[Message], ours: str) -> list[Message]:
    """`messages` below one system message: ours first, then what the client's own ones say."""
    theirs = [message_text(message) for message in messages if message.get("role") in ("system", "developer")]
    turns = [message for message in messages if message.get("role") not in ("system", "developer")]
    return [{"role": "system", "content": "\n\n".join([ours, *filter(None, theirs)])}, *turns]
