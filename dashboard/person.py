"""Who is at the keyboard, which API they speak to, and what became of their last act.

The name stands in the session (and, by app.py, in the URL); acts carry it. There is no login yet: the API listens on
this machine alone. A callback cannot draw, so what it did or why it failed waits in the session until `show_notice`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import streamlit as st

from dashboard.api import Api
from dashboard.plain import plain, show_error
from flywheel.errors import FlywheelError
from flywheel.settings import load_settings

NAME = "name"
NOTICE = "notice"


@st.cache_resource(show_spinner=False)
def _client(url: str) -> Api:
    return Api(url)


def api() -> Api:
    """The client, shared by every session of this process."""
    return _client(load_settings().api_url)


def name() -> str:
    """The person's name, or an empty string while they have not said it."""
    return str(st.session_state.get(NAME) or "").strip()


def name_or_hint(purpose: str) -> str:
    """The person's name; without one, a line that asks for it, and the rest of the page is not drawn."""
    if not name():
        st.info(f"Write your name on the left first: {purpose}", icon=":material/person:")
        st.stop()
    return name()


@contextmanager
def explained() -> Iterator[None]:
    """What the API refuses becomes one sentence on the page, and what follows inside is left out."""
    try:
        yield
    except FlywheelError as error:
        show_error(error)


def act(step: Callable[[], str | None]) -> bool:
    """Do something in a callback. Says whether it succeeded; the sentence it returns waits for `show_notice`."""
    try:
        done = step()
    except FlywheelError as error:
        st.session_state[NOTICE] = error
        return False
    st.session_state[NOTICE] = done
    return True


def show_notice() -> None:
    """The outcome of the last act, once."""
    notice = st.session_state.pop(NOTICE, None)
    if isinstance(notice, FlywheelError):
        show_error(notice)
    elif notice:
        st.success(plain(notice), icon=":material/check:")
