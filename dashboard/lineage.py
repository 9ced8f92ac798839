"""Lineage of one answer: from a completion id to the adapter, run, dataset version and pairs that shaped it."""

from __future__ import annotations

from typing import Any

import streamlit as st

from dashboard import person
from dashboard.plain import moment, plain, show_table
from dashboard.shapes import Lineage, LineagePair

COMPLETION = "completion"


def draw_lookup() -> None:
    completion_id = st.text_input(
        "Completion id", key=COMPLETION, bind="query-params", placeholder="chatcmpl-…", help="Every answer carries one."
    )
    if completion_id and completion_id.strip():
        with person.explained():
            draw_lineage(person.api().lineage(completion_id.strip()))


def draw_lineage(lineage: Lineage) -> None:
    steps = [(kind, *summary) for kind, summary in summaries(lineage)]
    show_table(
        {
            "Record": [kind for kind, _, _ in steps],
            "Which": [which for _, which, _ in steps],
            "What is known": [known for _, _, known in steps],
        },
        alt="Lineage of the answer",
    )
    pairs = lineage["pairs"]
    if pairs:
        st.caption(f"{len(pairs)} of {lineage.get('total', len(pairs))} pairs that the adapter learnt from")
        for pair in pairs:
            _draw_pair(pair)
    else:
        st.caption("No pair shaped this answer: its adapter was not trained.")


def summaries(lineage: Lineage) -> list[tuple[str, tuple[str, str]]]:
    """One line per record that the lineage has."""
    lines = {
        "Answer": _line(lineage["completion"], "id", "alias", "route", "user"),
        "Adapter": _line(lineage["adapter"], "name", "parent", "base_model_hash"),
        "Training run": _line(lineage["run"], "id", "state", "requested_by"),
        "Dataset version": _line(lineage["dataset"], "name", "train_rows", "validation_rows"),
        "Experiment": _line(lineage["experiment"], "id", "state", "champion", "challenger"),
        "Promotion": _line(lineage["promotion"], "id", "kind", "actor", "reason"),
    }
    return [(kind, line) for kind, line in lines.items() if line]


def _line(record: dict[str, Any] | None, handle: str, *fields: str) -> tuple[str, str] | None:
    if not record:
        return None
    known = [f"{field.replace('_', ' ')} {record[field]}" for field in fields if record.get(field) is not None]
    when = record.get("created_at") or record.get("asked_at")
    return str(record.get(handle, "–")), " · ".join([*known, moment(when)] if when else known)


def _draw_pair(pair: LineagePair) -> None:
    judged = ", ".join(f"{judgment['reviewer']} ({judgment['source']})" for judgment in pair["judgments"])
    with st.expander(plain(pair["question"])):
        st.caption(f"{plain(pair['id'])} · judged by {plain(judged)}")
        for side, (label, text) in zip(
            st.columns(2), (("Chosen", pair["chosen"]), ("Rejected", pair["rejected"])), strict=True
        ):
            with side.container(border=True, height="stretch", gap="xsmall"):
                st.caption(label)
                st.text(text)
