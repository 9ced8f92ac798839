"""Engines that fail, and what client and record are told; and citations, with an engine that is sure to cite."""

from __future__ import annotations

import gc
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from sqlmodel import Session, col, select

from flywheel.interactions import Interaction
from flywheel.processes import answers
from flywheel.settings import STARTER, load_settings
from serving.chat import Answer
from serving.statements import Write
from serving.stream import Relay
from serving.turn import Turn
from tests.conftest import Served, serving_on, wait_until
from tests.serving import scripted_engine
from tests.serving.scripted_engine import ScriptedReplica

PRICE = "## Price\nThe heron ferry costs 14 €."


@pytest.fixture(scope="module")
def replicas() -> Iterator[list[ScriptedReplica]]:
    found = [ScriptedReplica(), ScriptedReplica()]
    yield found
    for replica in found:
        replica.stop()


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory, replicas: list[ScriptedReplica]) -> Iterator[Served]:
    """Serving in front of two scripted engines."""
    settings = load_settings(
        home=tmp_path_factory.mktemp("home"),
        base_model=str(STARTER),
        engine={"urls": [replica.url for replica in replicas]},
        serving={"port": 0, "reconcile_seconds": 0.3},
    )
    with serving_on(settings) as found:
        wait_until(lambda: answers(f"{found.url}/readyz"), seconds=280)
        httpx.post(f"{found.url}/v1/documents", json={"title": "Heron ferry", "text": PRICE}, headers=found.authorized)
        yield found


Ask = Callable[..., httpx.Response]


@pytest.fixture
def ask(scripted: Served) -> Ask:
    def post(word: str, *, model: str = "flywheel-plain", stream: bool = False) -> httpx.Response:
        content = f"{word} how much does the heron ferry cost?"
        body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": content}]}
        return httpx.post(f"{scripted.url}/v1/chat/completions", json=body, timeout=30, headers=scripted.authorized)

    return post


def last_row(served: Served) -> Interaction:
    with Session(served.database) as session:
        query = select(Interaction).order_by(col(Interaction.id).desc()).limit(1)
        return session.exec(query).one()


@pytest.mark.parametrize("model", ["flywheel-plain", "flywheel"])
@pytest.mark.parametrize(("word", "reason"), [("die", "EngineCore died."), ("cut", "broke off")])
def test_engine_that_fails_in_mid_stream_is_an_error_and_a_failed_row(
    ask: Ask, scripted: Served, word: str, reason: str, model: str
) -> None:
    answer = ask(word, stream=True, model=model)
    assert "[DONE]" not in answer.text
    assert answer.text.rstrip().splitlines()[-1].startswith('data: {"error":')
    wait_until(lambda: last_row(scripted).status != "asked")
    row = last_row(scripted)
    assert (row.status, row.answer) == ("failed", "It cost")
    assert reason in (row.error or "")


def test_stock_client_sees_the_failure_of_a_stream_as_an_error(scripted: Served) -> None:
    with openai.OpenAI(base_url=f"{scripted.url}/v1", api_key=scripted.key, max_retries=0) as client:
        stream = client.chat.completions.create(
            model="flywheel-plain", messages=[{"role": "user", "content": "die now"}], stream=True
        )
        with pytest.raises(openai.APIError, match="EngineCore died"):
            list(stream)


@pytest.mark.parametrize("word", ["crash", "gone"])
def test_engine_that_fails_before_the_first_byte_is_a_503_to_try_again(ask: Ask, scripted: Served, word: str) -> None:
    answer = ask(word)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["code"] == "unavailable"
    wait_until(lambda: last_row(scripted).status == "failed")


def test_defect_of_ours_is_a_500_with_a_request_id_and_a_failed_row(
    ask: Ask, scripted: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.stream.whole_choices", None)
    answer = ask("cite")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert answer.headers["x-request-id"] in answer.json()["error"]["message"]
    wait_until(lambda: last_row(scripted).status == "failed")


@pytest.mark.parametrize("stream", [False, True])
def test_citation_reaches_client_and_record(scripted: Served, stream: bool) -> None:
    question = [{"role": "user", "content": "cite how much does the heron ferry cost?"}]
    body: Any = {"model": "flywheel", "messages": question, "stream": stream}
    with openai.OpenAI(base_url=f"{scripted.url}/v1", api_key=scripted.key) as client:
        if stream:
            chunks = list(client.chat.completions.create(**body))
            found = (chunks[-1].choices[0].delta.model_extra or {})["annotations"][0]["url_citation"]
        else:
            annotations = client.chat.completions.create(**body).choices[0].message.annotations or []
            found = annotations[0].url_citation.model_dump()
    assert found["url"] == "/v1/documents/Heron%20ferry#Price"
    assert scripted_engine.CITED[found["start_index"] : found["end_index"]] == "[1]"
    row = last_row(scripted)
    assert [(passage.section, passage.cited) for passage in row.passages] == [("Price", True)]
    assert found["title"] == "Heron ferry – Price"
    place = f"{scripted.url}/v1/chat/completions/{row.id}"
    [stored] = httpx.get(place, headers=scripted.authorized).json()["choices"]
    assert stored["message"]["annotations"] == [{"type": "url_citation", "url_citation": found}]
    assert (
        httpx.get(scripted.url + found["url"].partition("#")[0], headers=scripted.authorized).json()["document"]
        == "Heron ferry"
    )


def words_asked(*, since: int) -> list[str]:
    """The first word of what the engine was asked; serving's own probes of it are among them."""
    return [asked["messages"][-1]["content"].split()[0] for asked in scripted_engine.asked[since:]]


@pytest.mark.parametrize("stream", [False, True])
def test_no_answer_overtakes_its_row_when_the_disk_is_slow(
    scripted: Served, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    writer = scripted.app.appliance.writer
    commit = writer._commit
    events: list[str] = []

    def slow(group: list[object]) -> object:
        time.sleep(0.3)
        error = commit(group)
        events.append("committed")
        return error

    monkeypatch.setattr(writer, "_commit", slow)
    before = len(scripted_engine.asked)
    body = {"model": "flywheel-plain", "messages": [{"role": "user", "content": "cite"}], "stream": stream}
    with httpx.stream(
        "POST", f"{scripted.url}/v1/chat/completions", json=body, headers=scripted.authorized
    ) as response:
        for data in response.iter_raw():
            events += ["done" if b"[DONE]" in data else "sent"]
    assert words_asked(since=before).count("cite") == 1
    assert events[0] == "committed"
    assert events[-2:] == (["committed", "done"] if stream else ["committed", "sent"])
    assert events.count("committed") >= (2 if stream else 1)  # an answer in one piece may be asked and over in one row


@pytest.mark.parametrize("stream", [False, True])
def test_engine_is_not_asked_while_the_record_takes_no_new_row(
    ask: Ask, scripted: Served, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    writer = scripted.app.appliance.writer
    execute = writer._execute

    def full(cursor: Any, writes: list[Write]) -> Any:
        if any(write.opens for write in writes):  # a full disk lets through what changes nothing
            raise sqlite3.OperationalError("database or disk is full")
        return execute(cursor, writes)

    with monkeypatch.context() as broken:
        broken.setattr(writer, "_execute", full)
        assert ask("cite", stream=stream).status_code == 503  # by which the writer learns of it
        before = len(scripted_engine.asked)
        refused = [ask("cite", stream=stream) for _ in range(3)]
        assert {(one.status_code, one.headers["retry-after"]) for one in refused} == {(503, "1")}
        assert "cite" not in words_asked(since=before)
    assert ask("cite", stream=stream).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_error_of_the_engine_leaves_after_its_row(
    ask: Ask, scripted: Served, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    writer = scripted.app.appliance.writer
    execute = writer._execute

    def slow(*what: Any) -> Any:
        time.sleep(0.3)
        return execute(*what)

    monkeypatch.setattr(writer, "_execute", slow)
    before = last_row(scripted).id
    assert ask("crash", stream=stream).status_code == 503
    assert (last_row(scripted).status, last_row(scripted).id > before) == ("failed", True)


def test_slow_stream_is_kept_alive_by_comments_that_stock_clients_pass_over(
    ask: Ask, scripted: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.heartbeat.SECONDS", scripted_engine.PAUSE / 3)
    assert ask("slow", stream=True).text.count(": keep-alive\n\n") in (1, 2, 3)
    assert "keep-alive" not in ask("cite", stream=True).text
    with openai.OpenAI(base_url=f"{scripted.url}/v1", api_key=scripted.key) as client:
        asked: Any = [{"role": "user", "content": "slow please"}]
        stream = client.chat.completions.create(model="flywheel-plain", messages=asked, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == scripted_engine.CITED


@pytest.mark.parametrize(("word", "retry"), [("crash", "true"), ("fine", None)])
def test_error_says_whether_to_try_again(ask: Ask, word: str, retry: str | None) -> None:
    assert ask(word).headers.get("x-should-retry") == retry
    assert ask(word, model="nobody").headers["x-should-retry"] == "false"


def both_ready(served: Served) -> bool:
    live = served.app.appliance.live
    return len(live.loaded_on(live.standing.champion)) == 2


def test_replica_that_dies_before_its_first_word_is_passed_over(ask: Ask, scripted: Served) -> None:
    answer = ask("mute", stream=True)
    assert answer.text.endswith("data: [DONE]\n\n")
    assert "error" not in answer.text
    wait_until(lambda: last_row(scripted).status == "finished")
    assert last_row(scripted).answer == scripted_engine.CITED


@pytest.mark.parametrize("stream", [False, True])
def test_replica_that_has_lost_the_adapter_is_passed_over(ask: Ask, scripted: Served, stream: bool) -> None:
    wait_until(lambda: both_ready(scripted))
    before = len(scripted_engine.asked)
    answer = ask("lost" if stream else "lost now", stream=stream)
    assert answer.status_code == 200
    assert len(scripted_engine.asked) == before + 2
    wait_until(lambda: last_row(scripted).status == "finished")


def test_replica_that_is_down_costs_no_request(ask: Ask, scripted: Served, replicas: list[ScriptedReplica]) -> None:
    wait_until(lambda: both_ready(scripted))
    replicas[0].stop()  # the one that is asked first when both are idle
    statuses = [ask("cite", stream=bool(number % 2)).status_code for number in range(6)]
    assert statuses == [200] * 6


@pytest.mark.parametrize("word", ["cite", "die", "cut", "crash"])
@pytest.mark.parametrize("stream", [False, True])
def test_what_a_chat_needed_is_gone_with_it(ask: Ask, scripted: Served, word: str, stream: bool) -> None:
    """What refers to itself waits for the garbage collector, and each chat then works on memory that is cold."""

    def left() -> list[str]:
        return [type(one).__name__ for one in gc.get_objects() if isinstance(one, Turn | Relay | Answer)]

    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            ask(word, stream=stream)
        wait_until(lambda: len(left()) == 0)
    finally:
        gc.enable()
