"""The client: every failure is one sentence of flywheel's errors."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from dashboard.api import Api
from dashboard.stream import deltas
from flywheel.errors import ConflictError, EvidenceError, FlywheelError, NotFoundError, UnavailableError
from tests.dashboard.fake_records import HASH, Records


def chunk(text: str, finish: str | None = None) -> str:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return "data: " + json.dumps({"id": "chatcmpl-1", "choices": [choice]})


def test_api_that_does_not_answer_is_named_with_the_way_to_start_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with closing(Api(url)) as api, pytest.raises(UnavailableError, match=f"{url} cannot be reached.*flywheel up"):
        api.readiness()


def test_api_that_takes_too_long_is_said_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with (
            closing(Api(url, timeout_seconds=0.05, read_seconds=0.05)) as api,
            pytest.raises(UnavailableError, match="took too long"),
        ):
            api.ledger()


def test_unknown_completion_keeps_the_api_sentence(api: Api) -> None:
    with pytest.raises(NotFoundError, match="No completion 'x' is known here"):
        api.lineage("x")


def test_answer_of_something_else_on_that_port_is_no_traceback(api_url: str) -> None:
    with closing(Api(api_url + "/elsewhere")) as api, pytest.raises(FlywheelError, match="404 without saying why"):
        api.ledger()


def test_unknown_alias_is_refused_before_the_stream(api: Api) -> None:
    with pytest.raises(NotFoundError, match="no-such"):
        list(api.ask([], alias="no-such", user="", conversation="c"))


def test_second_and_different_judgment_is_a_conflict(api: Api) -> None:
    api.judge("pair-1", "a", reviewer="Mira")
    api.judge("pair-1", "a", reviewer="Mira")
    with pytest.raises(ConflictError, match="already judged"):
        api.judge("pair-1", "b", reviewer="Mira")


def test_stale_approval_brings_the_list_of_what_is_missing(api: Api) -> None:
    with pytest.raises(EvidenceError) as refused:
        api.decide("promote", actor="Ada", reason="r", experiment_id="exp-1", evidence_hash=HASH[:-1] + "0")
    assert refused.value.missing == ["the approval is for other evidence: look at it again"]


def test_api_that_is_up_but_not_ready_is_an_answer_and_no_error(api: Api, records: Records) -> None:
    records.ready = False
    assert api.readiness()["parts"]["engine"] == {"ready": False, "detail": "starting"}


def test_nameless_reader_sends_no_user(api: Api, records: Records) -> None:
    api.give_feedback("chatcmpl-1", user="", value=True)
    assert records.received == [("feedback", {"completion_id": "chatcmpl-1", "value": True})]


def test_streamed_answer_grows_and_ends_with_its_reason() -> None:
    lines = [chunk("Two "), "", ": keep-alive", chunk("weeks.", "stop"), "data: [DONE]"]
    answers = [(answer.text, answer.finish_reason) for answer in deltas(lines)]
    assert answers == [("Two ", None), ("Two weeks.", "stop")]


def test_error_inside_a_stream_is_never_an_answer() -> None:
    lines: Iterator[str] = iter([chunk("Two "), 'data: {"error": {"message": "The engine stopped."}}', "data: [DONE]"])
    with pytest.raises(FlywheelError, match="The engine stopped"):
        list(deltas(lines))


def test_stream_that_breaks_off_is_never_an_answer() -> None:
    with pytest.raises(UnavailableError, match="broke off"):
        list(deltas([chunk("Two ")]))
