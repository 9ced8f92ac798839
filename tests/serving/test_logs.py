"""What the log says of a request, and what it must not."""

from __future__ import annotations

import asyncio
import errno
import io
import logging
import sys

import httpx
import orjson
import pytest
from starlette.types import Receive, Scope, Send

from serving.logs import GATHER_SECONDS, Gathered, JsonLines, RequestLines
from serving.request_layer import RequestLayer
from tests.conftest import Served, wait_until

SECRET_WORDS = "the aubergine is in the lighthouse"


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [orjson.loads(line) for record in caplog.records for line in JsonLines().format(record).splitlines()]


def requests(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    """But for those by which the fixture waited, the last of which may be logged only now."""
    said = [line for line in lines(caplog) if line["logger"] == "serving.requests"]
    return [line for line in said if line.get("path") != "/readyz"]


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
        wait_until(lambda: len(requests(caplog)) >= 5)
    said = requests(caplog)
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


def test_a_defect_is_a_500_in_its_line_too(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise KeyError("no such thing")

    async def run() -> httpx.Response:
        lines = RequestLines()
        transport = httpx.ASGITransport(RequestLayer(broken, lines=lines))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            answer = await http.get("/v1/models")
        lines.say()
        return answer

    with caplog.at_level(logging.INFO):
        answer = asyncio.run(run())
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    [line] = requests(caplog)
    assert (line["status"], line["request_id"]) == (500, answer.headers["x-request-id"])


def test_requests_of_a_moment_are_one_record_and_a_line_each(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        waiting = RequestLines()
        for number in range(3):
            waiting.add({"time": 10.0 * number, "request_id": f"r{number}"})
        await asyncio.sleep(3 * GATHER_SECONDS)
        waiting.add({"time": 30.0, "request_id": "r3"})
        waiting.say()  # the end of the process
        waiting.say()

    with caplog.at_level(logging.INFO):
        asyncio.run(run())
    assert [line["request_id"] for line in requests(caplog)] == ["r0", "r1", "r2", "r3"]
    assert requests(caplog)[1]["time"] == "1970-01-01T00:00:10.000+00:00"
    assert len([record for record in caplog.records if record.name == "serving.requests"]) == 2


def test_an_exception_is_in_its_line() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        record = logging.getLogger("x").makeRecord("x", logging.ERROR, "f", 1, "failed %s", ("r1",), None)
        record.exc_info = sys.exc_info()
    line = orjson.loads(JsonLines().format(record))
    assert line["message"] == "failed r1"
    assert "ValueError: broken" in line["exception"]


class Writes(io.StringIO):
    """A stream that counts when it is flushed."""

    flushed = 0

    def flush(self) -> None:
        self.flushed += 1


def gathering() -> tuple[logging.Logger, Writes]:
    stream = Writes()
    logger = logging.getLogger("tests.gathering")
    logger.handlers = [Gathered(stream)]
    logger.propagate = False
    logger.setLevel(logging.INFO)
    return logger, stream


def test_lines_of_a_moment_are_written_together() -> None:
    async def run() -> None:
        logger, stream = gathering()
        for number in range(20):
            logger.info("line %d", number)
        assert stream.flushed == 0
        await asyncio.sleep(3 * GATHER_SECONDS)
        assert stream.flushed == 1
        assert [orjson.loads(line)["message"] for line in stream.getvalue().splitlines()] == [
            f"line {number}" for number in range(20)
        ]

    asyncio.run(run())


def test_a_warning_is_written_at_once_with_all_before_it() -> None:
    async def run() -> None:
        logger, stream = gathering()
        logger.info("before")
        logger.warning("now")
        assert stream.flushed == 1

    asyncio.run(run())


def test_what_is_said_before_the_loop_runs_is_written_at_once() -> None:
    logger, stream = gathering()
    logger.info("starting")
    assert stream.flushed == 1


def test_a_line_that_cannot_be_formatted_ends_no_request(capsys: pytest.CaptureFixture[str]) -> None:
    async def run() -> None:
        logger, _ = gathering()
        logger.info("needs %d", "a number")
        assert "Logging error" in capsys.readouterr().err

    asyncio.run(run())


def test_a_disk_that_takes_no_line_fails_nothing() -> None:
    logger, stream = gathering()

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    stream.flush = full  # type: ignore[method-assign]
    logger.error("lost?")
    del stream.flush
    logger.error("no")
    assert [orjson.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["lost?", "no"]
