"""Sample answers side by side. Of both arms: the newest question that both answered, else the newest of each. Of the
gate: the prompts that its report keeps. Always as plain text.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

from dashboard import person
from dashboard.plain import plain
from dashboard.shapes import Experiment, Gate, Interaction

ARMS = ("champion", "challenger")
READ = 200
"""How many of the newest interactions are looked through."""
SHOWN = 3


def draw_samples(experiment: Experiment) -> None:
    finished = [
        interaction
        for interaction in person.api().latest_interactions(limit=READ)
        if interaction["experiment_id"] == experiment["id"] and interaction["status"] == "finished"
    ]
    rows = sample_rows(finished)
    if not rows:
        st.text("No answer of this experiment is among the newest interactions.")
    for row in rows:
        for arm, place in zip(ARMS, st.columns(2, gap="medium"), strict=True):
            with place.container(border=True, height="stretch", gap="xsmall"):
                _draw_sample(arm, row.get(arm))


def draw_gate_samples(gate: Gate | None) -> None:
    """What base model and adapter answered to some of the gate's prompts."""
    samples = gate.get("samples", []) if gate else []
    if not samples:
        st.text("The gate's report keeps no answers: it had no prompts of its own, or it is older.")
    for sample in samples:
        st.caption(plain(sample["question"]))
        answers = (("Base model", sample["before"]), ("Challenger", sample["after"]))
        for (who, answer), place in zip(answers, st.columns(2, gap="medium"), strict=True):
            with place.container(border=True, height="stretch", gap="xsmall"):
                st.caption(who)
                st.text(answer or "(empty answer)")


def _draw_sample(arm: str, interaction: Interaction | None) -> None:
    st.caption(f"{arm.capitalize()} · {plain(interaction['id'])}" if interaction else arm.capitalize())
    if interaction:
        st.text(question_of(interaction))
        st.text(interaction["answer"] or "(empty answer)")


def sample_rows(interactions: list[Interaction]) -> list[dict[str, Interaction]]:
    """Up to three rows of one answer per arm: questions that both arms answered first, then simply the newest."""
    by_question: dict[str, dict[str, Interaction]] = {}
    newest: dict[str, list[Interaction]] = {arm: [] for arm in ARMS}
    for interaction in interactions:
        arm = interaction["arm"]
        if arm in newest:
            by_question.setdefault(question_of(interaction).casefold(), {}).setdefault(arm, interaction)
            newest[arm].append(interaction)
    shared = [row for row in by_question.values() if len(row) == len(ARMS)][:SHOWN]
    if shared:
        return shared
    count = min(SHOWN, max(len(newest[arm]) for arm in ARMS))
    return [{arm: newest[arm][number] for arm in ARMS if number < len(newest[arm])} for number in range(count)]


def question_of(interaction: Interaction) -> str:
    """The last thing the user said, if it was text."""
    texts: list[Any] = [message.get("content") for message in interaction["messages"] if message.get("role") == "user"]
    return texts[-1] if texts and isinstance(texts[-1], str) else "(no text)"
