"""Chat: ask, see the answer arrive, see what it was taken from, and rate it."""

from __future__ import annotations

from collections.abc import Iterator

import streamlit as st

from dashboard import person
from dashboard.conversation import Conversation, Turn, current, start_again
from dashboard.plain import plain, show_passages
from dashboard.rating import draw_rating
from dashboard.stream import Answer


def draw_head() -> str:
    """The title row. Returns the alias to ask."""
    title, choice, again = st.columns([5, 2, 2], vertical_alignment="bottom")
    title.title("Chat", anchor=False)
    alias = choice.selectbox(
        "Ask", person.api().aliases(), key="alias", label_visibility="collapsed", persist_state="session"
    )
    again.button("New conversation", icon=":material/add:", on_click=start_again, width="stretch")
    return str(alias)


def draw_turn(turn: Turn) -> None:
    with st.chat_message("user", avatar=":material/person:"):
        st.text(turn.question)
    with st.chat_message("assistant", avatar=":material/forum:"):
        if turn.answer.other is not None:
            draw_both(turn, turn.answer.other)
        else:
            draw_one(turn)


def draw_one(turn: Turn) -> None:
    st.text(turn.answer.text)
    draw_sources(turn)
    if turn.picked:
        st.caption("You picked this one, thank you.")
    else:
        draw_rating(turn.answer.completion_id, person.name())


def draw_both(turn: Turn, other: str) -> None:
    """Two answers of an experiment, in an order that tells nothing."""
    st.caption("Which of these is better?")
    for choice, (column, text) in enumerate(zip(st.columns(2), (turn.answer.text, other), strict=True)):
        with column.container(border=True, height="stretch"):
            st.text(text)
            st.button("This one", key=f"pick-{turn.answer.completion_id}-{choice}", on_click=pick, args=(turn, choice))


def pick(turn: Turn, choice: int) -> None:
    def step() -> None:
        person.api().give_feedback(turn.answer.completion_id, user=person.name(), name="pick", choice=choice)

    if person.act(step):
        turn.pick(choice)


def draw_sources(turn: Turn) -> None:
    for annotation in turn.answer.annotations:
        citation = annotation.get("url_citation", {})
        st.caption(f":material/format_quote: {plain(citation.get('title', ''))}")
    if turn.record is None:
        return
    with st.expander("Where this comes from"):
        route, adapter = turn.record["route"] or "direct", turn.record["adapter"] or "a fixed text"
        st.caption(f"Route {plain(route)} · answered by {plain(adapter)} · {plain(turn.record['id'])}")
        show_passages(turn.record["passages"])
        st.page_link(
            "views/promote.py",
            label="Lineage of this answer",
            icon=":material/account_tree:",
            query_params={"completion": turn.record["id"]},
        )


def ask(conversation: Conversation, question: str, alias: str) -> None:
    """Draw the question and its answer as it arrives, and keep the turn once it is whole."""
    with st.chat_message("user", avatar=":material/person:"):
        st.text(question)
    with st.chat_message("assistant", avatar=":material/forum:"):
        place, answer = st.empty(), Answer()
        place.caption("…")
        for answer in answers(conversation, question, alias):
            place.text(answer.text)
    record = person.api().interaction(answer.completion_id)
    conversation.turns.append(Turn(question, answer, record))
    st.rerun()


def answers(conversation: Conversation, question: str, alias: str) -> Iterator[Answer]:
    return person.api().ask(
        conversation.messages(question), alias=alias, user=person.name(), conversation=conversation.id
    )


with person.explained():
    alias = draw_head()
    conversation = current()
    if not conversation.turns:
        st.caption("Ask something. Your rating decides what is learnt from the answer.")
    for turn in conversation.turns:
        draw_turn(turn)
    if question := st.chat_input("Your question"):
        ask(conversation, question, alias)
