"""What is on disk when which byte arrives, and what is left when a client or the writer goes away."""

from __future__ import annotations

import json
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest

from flywheel.database import reading
from flywheel.interactions import Interaction
from flywheel.leases import servings_alive
from tests.conftest import Served, wait_until

pytestmark = pytest.mark.engine
LONG = {"model": "flywheel-plain", "messages": [{"role": "user", "content": "Tell me all"}], "stream": True}


def stored(served: Served, completion_id: str) -> Any:
    """Status, answer, error, read through a connection of our own: what is committed, nothing else."""
    connection = sqlite3.connect(served.settings.home / "flywheel.db")
    row = connection.execute("SELECT status, answer, error FROM interaction WHERE id = ?", [completion_id]).fetchone()
    connection.close()
    return row


def wait_for_status(served: Served, completion_id: str, status: str) -> Any:
    deadline = time.monotonic() + 10
    while stored(served, completion_id)[0] != status and time.monotonic() < deadline:
        time.sleep(0.02)
    return stored(served, completion_id)


def events(response: httpx.Response) -> Any:
    for line in response.iter_lines():
        if line.startswith("data: "):
            yield line[6:]


def test_asked_row_is_committed_when_the_first_byte_arrives(api: httpx.Client, served: Served) -> None:
    with api.stream("POST", "/v1/chat/completions", json={**LONG, "max_tokens": 40}) as response:
        told = events(response)  # kept: a generator that is dropped closes the stream behind it
        first = json.loads(next(told))
        assert stored(served, first["id"])[0] == "asked"


def test_row_names_the_serving_that_answers_and_that_one_has_given_a_sign_of_life(
    api: httpx.Client, served: Served
) -> None:
    completion_id = api.post("/v1/chat/completions", json={**LONG, "max_tokens": 1, "stream": False}).json()["id"]
    with reading(served.database) as session:
        assert [session.get_one(Interaction, completion_id).serving] == servings_alive(session)


def test_finished_row_is_committed_when_done_arrives(api: httpx.Client, served: Served) -> None:
    text, completion_id = "", ""
    with api.stream("POST", "/v1/chat/completions", json={**LONG, "max_tokens": 5}) as response:
        for event in events(response):
            if event == "[DONE]":
                assert stored(served, completion_id)[:2] == ("finished", text)
                return
            chunk = json.loads(event)
            completion_id = chunk["id"]
            text += chunk["choices"][0]["delta"].get("content") or ""
    pytest.fail("no [DONE] came")


@pytest.mark.parametrize("alias", ["flywheel-plain", "flywheel"])
def test_client_that_goes_away_leaves_a_cancelled_row_and_a_free_engine(
    api: httpx.Client, served: Served, alias: str
) -> None:
    body = {**LONG, "model": alias, "max_tokens": 1500, "temperature": 0, "ignore_eos": True}
    said = ""
    with api.stream("POST", "/v1/chat/completions", json=body) as response:
        for number, event in enumerate(events(response)):
            chunk = json.loads(event)
            said += chunk["choices"][0]["delta"].get("content") or ""
            if number == 8:
                break
    status, answer, error = wait_for_status(served, chunk["id"], "cancelled")
    assert status == "cancelled"
    assert answer.startswith(said)
    assert error.startswith("The client went away")
    appliance = served.app.appliance
    deadline = time.monotonic() + 2
    while appliance.engines.engines[0].in_flight and time.monotonic() < deadline:
        time.sleep(0.02)
    assert appliance.engines.engines[0].in_flight == 0
    assert appliance.live.in_flight(appliance.live.standing.champion) == 0

    def feedback() -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = api.get(f"/v1/interactions/{chunk['id']}").json()["feedback"]
        return rows

    wait_until(lambda: [row["name"] for row in feedback()] == ["abandon"], seconds=20)


def test_words_so_far_are_on_disk_while_the_answer_still_runs(api: httpx.Client, served: Served) -> None:
    body = {**LONG, "max_tokens": 1500, "temperature": 0, "ignore_eos": True}
    said, begun = "", time.monotonic()
    with api.stream("POST", "/v1/chat/completions", json=body) as response:
        for event in events(response):
            chunk = json.loads(event)
            said += chunk["choices"][0]["delta"].get("content") or ""
            status, kept, _ = stored(served, chunk["id"])
            if kept or time.monotonic() - begun > 20:
                break
    assert status == "asked"
    assert kept
    assert said.startswith(kept) or kept.startswith(said)  # this client may read behind


def test_asking_the_same_again_is_seen_without_being_told(api: httpx.Client, client: Any) -> None:
    ask = {"model": "flywheel-plain", "messages": [{"role": "user", "content": "Where is the desk?"}], "user": "zoe"}
    nobody = {**ask, "user": openai.omit}
    strangers = [client.chat.completions.create(**nobody, max_tokens=2).id for _ in range(2)]
    first, second = (client.chat.completions.create(**ask, max_tokens=2).id for _ in range(2))

    def signals(completion_id: str) -> set[tuple[str, str]]:
        said = api.get(f"/v1/interactions/{completion_id}").json()["feedback"]
        return {(row["name"], row["source"]) for row in said}

    expected = {("regenerate", "implicit"), ("next_turn_seconds", "implicit")}
    wait_until(lambda: signals(first) == expected, seconds=20)
    assert [signals(other) for other in (second, *strangers)] == [set()] * 3


def test_browser_rates_by_a_signed_link_and_by_no_other(api: httpx.Client, client: Any) -> None:
    answer = client.chat.completions.create(model="flywheel-plain", messages=LONG["messages"], max_tokens=2, user="ann")
    url = api.post("/v1/feedback/links", json={"completion_id": answer.id}).json()["url"]
    assert "👍" in api.get(url).text
    assert api.post(url, data={"value": "up"}).status_code == 200
    assert "kept" in api.post(url, data={"value": "down"}).text
    history = api.get(f"/v1/interactions/{answer.id}").json()["feedback"]
    assert [(row["score"], row["actor"]) for row in history] == [(1.0, "ann"), (0.0, "ann")]
    wrong = url[:-4] + "AAAA"
    assert api.post(wrong, data={"value": "up"}).status_code == 404
    assert (api.get(wrong).status_code, "👍" in api.get(wrong).text) == (404, False)
    assert api.get(url).headers["cache-control"] == "no-store"
    behind = {"x-forwarded-proto": "https"}  # a proxy that speaks TLS
    proxied = api.post("/v1/feedback/links", json={"completion_id": answer.id}, headers=behind).json()["url"]
    assert proxied.startswith(url.split("/rate/")[0].replace("http://", "https://") + "/rate/")
    assert api.post("/v1/feedback/links", json={"completion_id": "chatcmpl-unknown"}).status_code == 404


def test_link_is_for_one_choice_and_ends(api: httpx.Client, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = client.chat.completions.create(model="flywheel-plain", messages=LONG["messages"], max_tokens=2, n=2)

    def link(**more: Any) -> httpx.Response:
        return api.post("/v1/feedback/links", json={"completion_id": answer.id} | more)

    assert [link(**wrong).status_code for wrong in ({"choice": 2}, {"expires_in": 59}, {"expires_in": 10**9})] == [
        400
    ] * 3
    url = link(choice=1, expires_in=60).json()["url"]
    assert api.post(url, data={"value": "up"}).status_code == 200
    history = api.get(f"/v1/interactions/{answer.id}").json()["feedback"]
    assert [(row["choice"], row["score"]) for row in history] == [(1, 1.0)]
    later = datetime.now(UTC) + timedelta(seconds=61)
    monkeypatch.setattr("serving.rating_links.datetime", SimpleNamespace(now=lambda _: later))
    for ended in (api.get(url), api.post(url, data={"value": "down"})):
        assert (ended.status_code, "has ended" in ended.text) == (400, True)


def test_full_writer_refuses_before_the_engine_is_asked(
    api: httpx.Client, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    appliance = served.app.appliance
    monkeypatch.setattr(appliance.writer, "limit", 0)
    monkeypatch.setattr(appliance.engines.engines[0], "stream", None)  # asking it would fail
    answer = api.post("/v1/chat/completions", json={**LONG, "stream": False})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["code"] == "unavailable"


def test_feedback_is_kept_once_and_its_history_stays(api: httpx.Client, client: Any, served: Served) -> None:
    answer = client.chat.completions.create(model="flywheel-plain", messages=LONG["messages"], max_tokens=2, user="ann")
    say = {"completion_id": answer.id, "value": 2, "comment": "too long"}
    first = api.post("/v1/feedback", json=say).json()
    again = api.post("/v1/feedback", json=say).json()
    changed = api.post("/v1/feedback", json={"completion_id": answer.id, "value": True}).json()
    assert first["object"] == "feedback"
    assert first["ids"] == again["ids"]
    assert changed["id"] not in first["ids"]
    history = api.get(f"/v1/interactions/{answer.id}").json()["feedback"]
    assert [(row["name"], row["score"], row["text"], row["actor"]) for row in history] == [
        ("rating", 0.25, None, "ann"),
        ("comment", None, "too long", "ann"),
        ("rating", 1.0, None, "ann"),
    ]


def test_feedback_that_differs_in_anything_is_a_row_of_its_own(api: httpx.Client, client: Any) -> None:
    answer = client.chat.completions.create(model="flywheel-plain", messages=LONG["messages"], max_tokens=2)
    said: list[dict[str, Any]] = [{"value": True, "user": name, "source": "user"} for name in ("ann", "bob")]
    said += [{"value": True, "user": "ann", "source": "reviewer"}]
    said += [{"comment": words, "user": "ann"} for words in ("too long", "too short")]
    ids = {api.post("/v1/feedback", json={"completion_id": answer.id} | one).json()["id"] for one in said}
    assert len(ids) == len(said)


def test_the_same_feedback_sent_many_times_at_once_is_one(api: httpx.Client, client: Any) -> None:
    for _ in range(5):
        done = client.chat.completions.create(model="flywheel-plain", messages=LONG["messages"], max_tokens=2)
        body = {"completion_id": done.id, "value": True, "user": "ann", "id": "mine"}
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: api.post("/v1/feedback", json=body), range(12)))  # noqa: B023
        assert [answer.status_code for answer in answers] == [200] * 12
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert len(api.get(f"/v1/interactions/{done.id}").json()["feedback"]) == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"completion_id": "chatcmpl-unknown", "value": True}, 404),
        ({"value": True}, 400),
        ({"completion_id": "known", "value": 9}, 400),
        ({"completion_id": "known"}, 400),
        ({"completion_id": "known", "value": True, "source": "nobody"}, 400),
    ],
)
def test_feedback_that_makes_no_sense_is_refused_in_openais_shape(
    api: httpx.Client, client: Any, body: Any, status: Any
) -> None:
    if body.get("completion_id") == "known":
        answer = client.chat.completions.create(model="flywheel-plain", messages=LONG["messages"], max_tokens=1)
        body = {**body, "completion_id": answer.id}
    refused = api.post("/v1/feedback", json=body)
    assert refused.status_code == status
    assert isinstance(refused.json()["error"]["code"], str)


def test_interactions_are_paged_newest_first(api: httpx.Client, client: Any) -> None:
    ids = [
        client.chat.completions.create(model="flywheel-plain", messages=LONG["messages"], max_tokens=1).id
        for _ in range(3)
    ]
    page = api.get("/v1/interactions", params={"limit": 2}).json()["data"]
    following = api.get("/v1/interactions", params={"limit": 1, "before": page[-1]["id"]}).json()["data"]
    assert [row["id"] for row in [*page, *following]] == ids[::-1]
    assert api.get("/v1/interactions/chatcmpl-none").status_code == 404
