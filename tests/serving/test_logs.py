"""What the log says of a request, and what it must not."""

from __future__ import annotations

import logging
import sys

import httpx
import orjson
import pytest

from serving.logs import JsonLines
from tests.conftest import Served

SECRET_WORDS = "the aubergine is in the lighthouse"


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [orjson.loads(JsonLines().format(record)) for record in caplog.records]


def test_a_request_is_one_line_with_its_id_and_without_words_or_keys(
    api: httpx.Client, served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    body = {"model": "flywheel-plain", "messages": [{"role": "user", "content": SECRET_WORDS}], "max_tokens": 4}
    with caplog.at_level(logging.INFO):
        done = api.post("/v1/chat/completions", json=body, headers={"x-request-id": "mine-1"})
        api.get("/v1/interactions", params={"before": SECRET_WORDS})
        link = api.post("/v1/feedback/links", json={"completion_id": done.json()["id"]}).json()["url"]
        httpx.get(link)
        httpx.get(f"{served.url}/v1/models", headers={"authorization": "Bearer sk-fw-forged"})
        httpx.get(f"{served.url}/healthz")
    said = [line for line in lines(caplog) if line["logger"] == "serving.requests"]
    assert [(line["method"], line["path"], line["status"]) for line in said] == [
        ("POST", "/v1/chat/completions", 200),
        ("GET", "/v1/interactions", 200),
        ("POST", "/v1/feedback/links", 200),
        ("GET", "/rate/…", 200),
        ("GET", "/v1/models", 401),
    ]
    assert said[0]["request_id"] == "mine-1"
    assert str(said[0]["key"]).startswith("key-")
    assert said[0]["tenant"] == "default"
    assert isinstance(said[0]["milliseconds"], float)
    whole = str([line for line in lines(caplog) if str(line["logger"]).startswith("serving")])  # not the client's own
    for secret in (SECRET_WORDS, served.key, "sk-fw-forged", link.rpartition("/")[2], done.text):
        assert secret not in whole


def test_an_exception_is_in_its_line() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        record = logging.getLogger("x").makeRecord("x", logging.ERROR, "f", 1, "failed %s", ("r1",), None)
        record.exc_info = sys.exc_info()
    line = orjson.loads(JsonLines().format(record))
    assert line["message"] == "failed r1"
    assert "ValueError: broken" in line["exception"]
