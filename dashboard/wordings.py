"""Wordings of prompts, always as plain text: those of both arms where they differ, and the one behind an answer."""

from __future__ import annotations

from collections.abc import Container

import streamlit as st

from dashboard.plain import plain
from dashboard.shapes import Experiment, Prompt

ARMS = ("champion", "challenger")
PARTS = {
    "knowledge": "Above the passages",
    "passage": "Each passage",
    "no_passages": "Without passages",
    "small_talk": "Small talk",
    "refuse": "Out of scope",
}


def draw_wordings(experiment: Experiment) -> None:
    """What the two arms are asked in, unless it is the same."""
    prompts = experiment.get("prompts")
    if not prompts or prompts["champion"]["version"] == prompts["challenger"]["version"]:
        return
    wordings = [prompts[arm]["wording"] for arm in ARMS]
    changed = {part for part in PARTS if len({wording[part] for wording in wordings}) > 1}
    st.subheader("Prompts", anchor=False)
    for arm, place in zip(ARMS, st.columns(2, gap="medium"), strict=True):
        with place.container(border=True, height="stretch", gap="xsmall"):
            st.caption(f"{arm.capitalize()} · {headline(prompts[arm])}")
            draw_wording(prompts[arm], changed=changed)


def draw_wording(prompt: Prompt, *, changed: Container[str] = ()) -> None:
    """Part by part."""
    for part, label in PARTS.items():
        st.caption(f"{label} · differs" if part in changed else label)
        st.text(prompt["wording"][part])


def headline(prompt: Prompt) -> str:
    """Version, note and author."""
    known = (prompt["version"], prompt["note"], prompt["actor"] and f"by {prompt['actor']}")
    return " · ".join(plain(one) for one in known if one)
