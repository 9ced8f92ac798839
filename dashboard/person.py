"""Who is at the keyboard, which API they speak to, and what became of their last act.

The name stands in the session (and, by app.py, in the URL); acts carry it. The API key a person signs in with stands in
the session alone, and goes with the browser tab; FLYWHEEL_API_KEY signs everybody in. A callback cannot draw, so what
it did or why it failed waits in the session until `show_notice`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import streamlit as st

from dashboard.api import Api
from dashboard.plain import plain, show_error
from flywheel.errors import AccessError, FlywheelError
from flywheel.settings import load_settings

NAME = "name"
KEY = "api-key"
CALLER = "caller"
NOTICE = "notice"


@st.cache_resource(show_spinner=False, max_entries=200)
def _client(url: str, key: str) -> Api:
    return Api(url, key=key)


def api() -> Api:
    """The client with this person's key, shared by every session that has the same."""
    settings = load_settings()
    shared = settings.api_key.get_secret_value() if settings.api_key else ""
    return _client(settings.api_url, shared or st.session_state.get(KEY, ""))


def signed_in() -> bool:
    """Whether the API lets this person in; otherwise the form that asks for their key is drawn."""
    if CALLER in st.session_state:
        return True
    try:
        st.session_state[CALLER] = api().caller()
    except AccessError as error:
        _ask_for_key(error)
        return False
    except FlywheelError:
        return True  # the pages say themselves what is wrong
    if (known := st.session_state[CALLER]["name"]) and not name():
        st.session_state[NAME] = known
    return True


def _ask_for_key(error: AccessError) -> None:
    with st.form("sign-in", width=480):
        st.subheader("Sign in")
        if st.session_state.get(KEY):
            show_error(error)
        st.text_input("API key", type="password", key="typed-key", placeholder="sk-fw-…")
        st.form_submit_button("Sign in", type="primary", on_click=_keep_key)
        st.caption("`flywheel up` prints the first one at its first start; `flywheel keys create` makes others.")


def _keep_key() -> None:
    st.session_state[KEY] = st.session_state["typed-key"].strip()


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
