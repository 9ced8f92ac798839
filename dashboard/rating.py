"""What a reader says about one answer: thumbs or stars, a comment, a correction.

Thumbs and stars are the same rating in two forms, so setting one clears the other; the newest counts. Taking a rating
back is not covered.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

from dashboard import person
from dashboard.plain import show_error
from flywheel.errors import FlywheelError


@st.fragment
def draw_rating(completion_id: str, user: str) -> None:
    """One quiet row under an answer. Only this row is drawn again when something is said."""
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        for form in ("thumbs", "stars"):
            st.feedback(form, key=f"{form}-{completion_id}", on_change=_rate, args=(form, completion_id, user))
        with st.popover("Comment or correct", type="tertiary", icon=":material/edit_note:"):
            _draw_words(completion_id, user)
        outcome = st.session_state.get(f"outcome-{completion_id}")
        if isinstance(outcome, str):
            st.caption(outcome)
    if isinstance(outcome, FlywheelError):
        show_error(outcome)


def _draw_words(completion_id: str, user: str) -> None:
    with st.form(f"words-{completion_id}", border=False, clear_on_submit=True):
        st.text_area("Comment", key=f"comment-{completion_id}", placeholder="What is good or wrong about it?")
        st.text_area("Correction", key=f"correction-{completion_id}", placeholder="The answer as it should have been")
        st.form_submit_button("Send", type="primary", on_click=_send_words, args=(completion_id, user))


def _rate(form: str, completion_id: str, user: str) -> None:
    chosen = st.session_state[f"{form}-{completion_id}"]
    if chosen is None:
        return
    other = "stars" if form == "thumbs" else "thumbs"
    st.session_state[f"{other}-{completion_id}"] = None
    _give(completion_id, user, value=bool(chosen) if form == "thumbs" else chosen + 1)


def _send_words(completion_id: str, user: str) -> None:
    said = {kind: st.session_state[f"{kind}-{completion_id}"].strip() for kind in ("comment", "correction")}
    if any(said.values()):
        _give(completion_id, user, **{kind: text for kind, text in said.items() if text})


def _give(completion_id: str, user: str, **said: Any) -> None:
    kept = person.act(lambda: person.api().give_feedback(completion_id, user=user, **said))
    failure = st.session_state.pop(person.NOTICE, None)
    st.session_state[f"outcome-{completion_id}"] = "Kept, thank you." if kept else failure
