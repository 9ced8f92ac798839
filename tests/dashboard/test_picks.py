"""The Chat page where an experiment shows both answers."""

from __future__ import annotations

from collections.abc import Callable

from streamlit.testing.v1 import AppTest

from tests.dashboard.fake_api import OTHER
from tests.dashboard.fake_records import Records

OpenPage = Callable[..., AppTest]


def test_of_two_answers_the_picked_one_goes_on(open_page: OpenPage, records: Records) -> None:
    records.two_answers = True
    page = open_page("chat")
    page.chat_input[0].set_value("What does a late book cost?").run()
    assert {"20 cents a day [1].", OTHER} <= {text.value for text in page.text}
    assert not page.feedback  # what is asked is which, not how good
    page.button("pick-chatcmpl-new-1").click().run()
    assert records.received[-1] == (
        "feedback",
        {"completion_id": "chatcmpl-new", "user": "Mira", "name": "pick", "choice": 1},
    )
    assert [text.value for text in page.text].count(OTHER) == 1
    assert "20 cents a day [1]." not in {text.value for text in page.text}
    records.two_answers = False
    page.chat_input[0].set_value("And a film?").run()
    assert [body["messages"] for kind, body in records.received if kind == "chat"][-1][1]["content"] == OTHER
