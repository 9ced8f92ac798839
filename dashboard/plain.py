"""Showing words that somebody else wrote: always as plain text, because Markdown could load pictures from afar.

`st.text` is plain by itself; everything that must go through a Markdown widget (tables, labels, boxes) is escaped here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import streamlit as st

from dashboard.shapes import Passage
from flywheel.errors import EvidenceError, FlywheelError

SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|$~:&^=@/])")
MADE_AFTERWARDS = re.compile(r"(?<=:)(?=//)|(?<=www)(?=\.)|(?<=@)(?=\w)|(?<=:)(?=[\w/+-]+:)")
"""Where links, addresses, icons and emoji are found once the escapes are gone: an invisible joiner parts them."""


def plain(text: object) -> str:
    """Text that Markdown shows as it stands, on one line: every character with a meaning is escaped."""
    parted = MADE_AFTERWARDS.sub("\u2060", " ".join(str(text).split()))
    return SPECIAL.sub(r"\\\1", parted)


def show_error(error: FlywheelError) -> None:
    """One clear sentence; for a refused promotion, a list of what is missing."""
    if isinstance(error, EvidenceError):
        missing = "\n".join(f"- {plain(sentence)}" for sentence in error.missing)
        st.error(f"Not promoted. This is missing:\n\n{missing}", icon=":material/block:")
    else:
        st.error(plain(error), icon=":material/error:")


def show_table(columns: dict[str, Sequence[Any]], *, alt: str) -> None:
    """A calm table; its cells are escaped."""
    cells = {name: [plain(value) for value in values] for name, values in columns.items()}
    st.table(cells, border="horizontal", hide_index=True, alt=alt)


def show_passages(passages: Sequence[Passage]) -> None:
    """What an answer was, or could have been, taken from; the cited ones are marked."""
    for passage in passages:
        cited = " · cited" if passage.get("cited") else ""
        heading = f"[{passage['number']}] {passage['document']} – {passage['section']}"
        with st.container(gap=None):
            st.caption(plain(heading) + cited)
            st.text(passage["text"])


def figure(value: float | None, pattern: str = "{:.3f}") -> str:
    """A number for people; a dash where nothing was measured."""
    return "–" if value is None else pattern.format(value)


def moment(value: str | None) -> str:
    """A time of the API's in minutes, UTC."""
    return "–" if value is None else datetime.fromisoformat(value).strftime("%Y-%m-%d %H:%M UTC")
