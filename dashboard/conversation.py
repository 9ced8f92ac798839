"""The conversation on the Chat page: what was asked and answered in this browser session.

Only whole answers become turns; a question whose answer failed is not part of what the next request sends. The record
of truth is the API's; this is what the page needs to draw it again at every interaction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import uuid4

import streamlit as st

from dashboard.shapes import Interaction
from dashboard.stream import Answer


@dataclass
class Turn:
    question: str
    answer: Answer
    record: Interaction | None
    """The stored interaction; None when it could not be read back."""
    picked: bool = False

    def pick(self, choice: int) -> None:
        """Of two answers, go on with this one."""
        if choice == 1 and self.answer.other is not None:
            self.answer.text = self.answer.other
        self.answer.other, self.picked = None, True


@dataclass
class Conversation:
    id: str = field(default_factory=lambda: uuid4().hex)
    turns: list[Turn] = field(default_factory=list)

    def messages(self, question: str) -> list[dict[str, str]]:
        """Everything said so far, and the new question."""
        said = [
            message
            for turn in self.turns
            for message in (
                {"role": "user", "content": turn.question},
                {"role": "assistant", "content": turn.answer.text},
            )
        ]
        return [*said, {"role": "user", "content": question}]


def current() -> Conversation:
    """The conversation of this session; a fresh one at first and after `start_again`."""
    conversation: Conversation = st.session_state.setdefault("conversation", Conversation())
    return conversation


def start_again() -> None:
    st.session_state["conversation"] = Conversation()
