"""Review: two answers to one question, blind; one key decides, and the next pair is there.

A button's own identity holds the id of its pair, so a key pressed twice or too early can judge the pair that was on the
screen and no other: once the next pair is drawn, a late press belongs to a button that is gone. The API takes the same
verdict twice without a change. Undo is not covered.
"""

from __future__ import annotations

import streamlit as st

from dashboard import person
from dashboard.plain import plain, show_passages
from dashboard.shapes import Pair, PairCounts, Verdict
from flywheel.errors import ConflictError

KEYS: list[tuple[str, Verdict, str]] = [
    ("1", "a", "Left is better"),
    ("2", "b", "Right is better"),
    ("3", "tie", "Equally good"),
    ("4", "neither", "Neither"),
]


def judge(pair_id: str, verdict: Verdict, reviewer: str) -> None:
    if person.act(lambda: person.api().judge(pair_id, verdict, reviewer=reviewer)):
        st.session_state["judged"] = st.session_state.get("judged", 0) + 1
    elif isinstance(st.session_state[person.NOTICE], ConflictError):
        del st.session_state[person.NOTICE]  # a second key on the same pair: the first one counts


def refill() -> None:
    person.act(make_pairs)


def make_pairs() -> str:
    made = person.api().refill_reviews()
    if made["pairs"]:
        return f"{made['pairs']} new pairs from {made['interactions']} answers."
    return "No low-rated answer without a pair was found, or its fresh answers were the same."


@st.fragment
def review(reviewer: str) -> None:
    with person.explained():
        found = person.api().next_review(reviewer)
        draw_counts(found["counts"])
        person.show_notice()
        if found["pair"] is None:
            draw_empty()
        else:
            draw_pair(found["pair"], reviewer)


def draw_counts(counts: PairCounts) -> None:
    done = counts["decided"] + counts["dropped"]
    total = done + counts["waiting"]
    st.progress(done / total if total else 0.0)
    st.caption(
        f"{counts['waiting']} waiting · {counts['decided']} decided · {counts['dropped']} set aside "
        f"· {st.session_state.get('judged', 0)} judged by you just now"
    )


def draw_empty() -> None:
    st.subheader("Nothing is waiting", anchor=False)
    st.text("Pairs are made from low-rated answers: each gets fresh answers to the same question to compare with.")
    st.button("Make pairs from low-rated answers", icon=":material/add:", on_click=refill)


def draw_pair(pair: Pair, reviewer: str) -> None:
    with st.container(border=True, gap="xsmall"):
        st.caption("Question")
        st.text(pair["question"])
        if pair["passages"]:
            with st.expander(f"Passages ({len(pair['passages'])})", expanded=True):
                show_passages(pair["passages"])
    for side, text, label in zip(st.columns(2, gap="medium"), (pair["a"], pair["b"]), ("Left", "Right"), strict=True):
        with side.container(border=True, height="stretch", gap="xsmall"):
            st.caption(label)
            st.text(text)
    for place, (key, verdict, label) in zip(st.columns(4), KEYS, strict=True):
        place.button(
            label,
            key=f"verdict-{verdict}-{pair['id']}",
            shortcut=key,
            on_click=judge,
            args=(pair["id"], verdict, reviewer),
            width="stretch",
        )


st.title("Review", anchor=False)
st.caption(f"Which answer serves the asker better? {plain('Keys 1, 2, 3 and 4 decide.')}")
review(person.name_or_hint("every judgment carries its reviewer."))
