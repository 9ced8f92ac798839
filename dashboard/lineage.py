"""Lineage: from a completion id (or an adapter) back to the run, dataset version and pairs that shaped it, and from a
user forth to everything made from their words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from dashboard import person
from dashboard.plain import moment, plain, show_table
from dashboard.shapes import Lineage, LineagePair
from dashboard.wordings import draw_wording, headline

COMPLETION, USER = "completion", "user"
ASKED_FOR = (COMPLETION, USER)


def draw_lookup() -> None:
    left, right = st.columns(2)
    completion_id = left.text_input(
        "Completion id", key=COMPLETION, bind="query-params", placeholder="chatcmpl-…", help="Every answer carries one."
    )
    user = right.text_input(
        "User", key=USER, bind="query-params", placeholder="ann", help="Everything that was made from their words."
    )
    if completion_id and completion_id.strip():
        with person.explained():
            draw_lineage(person.api().lineage(completion_id.strip()))
    if user and user.strip():
        with person.explained():
            draw_user(person.api().lineage_of_user(user.strip()))


def draw_user(found: dict[str, Any]) -> None:
    """Each step from a user's questions to the adapters made of them: how many, and the newest."""
    counts = found["counts"]
    show_table(
        {
            "Made from their words": list(counts),
            "How many": list(counts.values()),
            "Newest": [", ".join(_handle(row) for row in found[step][:3]) or "–" for step in counts],
        },
        alt=f"Everything made from the words of {found['user']}",
    )


def _handle(row: dict[str, Any]) -> str:
    return str(row.get("name") or row.get("id") or row.get("completion_id"))


def draw_lineage(lineage: Lineage) -> None:
    steps = [(kind, *summary) for kind, summary in summaries(lineage)]
    show_table(
        {
            "Record": [kind for kind, _, _ in steps],
            "Which": [which for _, which, _ in steps],
            "What is known": [known for _, _, known in steps],
        },
        alt="Lineage",
    )
    if prompt := lineage.get("prompt"):
        with st.expander(f"Prompt {headline(prompt)}"):
            draw_wording(prompt)
    pairs = lineage["pairs"]
    if pairs:
        st.caption(f"{len(pairs)} of {lineage.get('total', len(pairs))} pairs that the adapter learnt from")
        for pair in pairs:
            _draw_pair(pair)
    else:
        st.caption("No pair stands behind it: this adapter was not trained.")


def summaries(lineage: Lineage) -> list[tuple[str, tuple[str, str]]]:
    """One line per record that the lineage has."""
    adapter = lineage["adapter"]
    recipe = ((adapter or {}).get("recipe") or {}).get("name")
    parts = ("id", "alias", "route", "user", "prompt_version", "index_version", "router_version")
    lines = {
        "Answer": _line(lineage.get("completion"), *parts),
        "Prompt": _line(lineage.get("prompt"), "version", "note", "actor"),
        "Adapter": _line(adapter and adapter | {"recipe": recipe}, "name", "recipe", "parent", "base_model_hash"),
        "Training run": _line(lineage["run"], "id", "state", "requested_by"),
        "Dataset version": _line(lineage["dataset"], "name", "train_rows", "validation_rows"),
        "Experiment": _line(lineage.get("experiment"), "id", "state", "champion", "challenger"),
        "Promotion": _line(lineage.get("promotion"), "id", "kind", "actor", "reason"),
    }
    return [(kind, line) for kind, line in lines.items() if line]


def _line(record: Mapping[str, Any] | None, handle: str, *fields: str) -> tuple[str, str] | None:
    if not record:
        return None
    known = [f"{field.replace('_', ' ')} {record[field]}" for field in fields if record.get(field) is not None]
    when = record.get("created_at") or record.get("asked_at")
    return str(record.get(handle, "–")), " · ".join([*known, moment(when)] if when else known)


def _draw_pair(pair: LineagePair) -> None:
    judged = ", ".join(f"{judgment['reviewer']} ({judgment['source']})" for judgment in pair["judgments"])
    rated = ", ".join(f"{rating['score']:g} by {rating['actor'] or rating['source']}" for rating in pair["ratings"])
    with st.expander(plain(pair["question"])):
        st.caption(f"{plain(pair['id'])} · judged by {plain(judged)}" + (f" · rated {plain(rated)}" if rated else ""))
        for side, (label, text) in zip(
            st.columns(2), (("Chosen", pair["chosen"]), ("Rejected", pair["rejected"])), strict=True
        ):
            with side.container(border=True, height="stretch", gap="xsmall"):
                st.caption(label)
                st.text(text)
