"""The frame around every page: navigation, who you are, and whether the API answers.

Streamlit runs this file from the top at every interaction; a page is one file in views/.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import streamlit as st

from dashboard import person
from dashboard.plain import plain
from flywheel.errors import FlywheelError

PAGES = [
    st.Page("views/chat.py", title="Chat", icon=":material/chat:", default=True),
    st.Page("views/review.py", title="Review", icon=":material/compare_arrows:"),
    st.Page("views/experiment.py", title="Experiment", icon=":material/science:"),
    st.Page("views/promote.py", title="Promote", icon=":material/rocket_launch:"),
]


@st.fragment(run_every=5)
def connection() -> None:
    """One quiet line while everything is ready, and what is wrong otherwise. Redraws the page when the API is back."""
    try:
        readiness = person.api().readiness()
    except FlywheelError as error:
        st.session_state["connected"] = False
        st.caption(f":material/cloud_off: {plain(error)}")
        return
    waiting = [f"{part} ({state['detail']})" for part, state in readiness["parts"].items() if not state["ready"]]
    if waiting:
        st.caption(f":material/hourglass_empty: Not ready yet: {plain(', '.join(waiting))}")
    else:
        st.caption(f":material/cloud_done: Connected to {plain(urlsplit(person.api().url).netloc)}")
    if not st.session_state.get("connected", True):
        st.session_state["connected"] = True
        st.rerun()


def main() -> None:
    st.set_page_config(page_title="Flywheel", page_icon=str(Path(__file__).with_name("icon.svg")), layout="wide")
    page = st.navigation(PAGES)
    if not person.signed_in():
        return
    with st.sidebar:
        st.text_input(
            "Your name",
            key=person.NAME,
            bind="query-params",
            persist_state="session",
            placeholder="e.g. Mira",
            help="Ratings, judgments and decisions are kept under this name.",
        )
        connection()
    page.run()


main()
