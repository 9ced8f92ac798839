"""Idempotency-Key on a real engine: one answer for one key, however often and however fast it is asked for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import httpx
import openai
import pytest
from sqlmodel import Session, select

from flywheel.interactions import Interaction
from tests.conftest import Served, wait_until
from tests.serving.conftest import Make, bearer

pytestmark = pytest.mark.engine
ASK: Any = {
    "model": "flywheel-plain",
    "messages": [{"role": "user", "content": "How much is the Maple plan?"}],
    "max_tokens": 12,
    "temperature": 1.0,
}


def post(api: httpx.Client, key: str, **more: Any) -> httpx.Response:
    return api.post("/v1/chat/completions", json=ASK | more, headers={"idempotency-key": key})


def rows_under(served: Served, key: str) -> list[Interaction]:
    with Session(served.database) as session:
        return list(session.exec(select(Interaction).where(Interaction.idempotency_key == key)))


def test_same_key_and_body_get_the_same_answer(api: httpx.Client, served: Served) -> None:
    first, again = post(api, "one"), post(api, "one")
    assert again.headers["x-flywheel-replayed"] == "true"
    assert "x-flywheel-replayed" not in first.headers
    spoke = {name: first.headers[name] for name in first.headers if name.startswith("x-flywheel-")}
    assert spoke
    assert again.headers.items() >= spoke.items()
    for field in ("id", "model", "system_fingerprint", "usage"):
        told, retold = first.json()[field], again.json()[field]
        assert retold == (told if field != "usage" else {name: told[name] for name in retold})
    words = [answer.json()["choices"][0]["message"]["content"] for answer in (first, again)]
    assert words[0] == words[1]
    assert len(rows_under(served, "one")) == 1


def test_stream_is_replayed_as_a_stream(client: openai.OpenAI) -> None:
    options: Any = {"stream": True, "n": 2, "stream_options": {"include_usage": True}}
    headers = {"Idempotency-Key": "streamed"}
    told: list[Any] = []
    for _ in range(2):
        words, usage, completion_id, reasons = {0: "", 1: ""}, None, "", {}
        for chunk in client.chat.completions.create(**ASK, **options, extra_headers=headers):
            usage, completion_id = chunk.usage or usage, chunk.id
            for choice in chunk.choices:
                words[choice.index] += choice.delta.content or ""
                reasons[choice.index] = choice.finish_reason
        told.append((words, usage and usage.completion_tokens, completion_id, reasons))
    assert told[0] == told[1]
    assert None not in told[1][3].values()
    silent: Any = {"stream": True, "n": 2}
    asked = [
        list(client.chat.completions.create(**ASK, **silent, extra_headers={"Idempotency-Key": "silent"})) for _ in "12"
    ]
    assert [[chunk.usage for chunk in chunks if chunk.usage] for chunks in asked] == [[], []]


def test_requests_at_once_wait_for_the_first(api: httpx.Client, served: Served) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: post(api, "at once"), range(6)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(rows_under(served, "at once")) == 1


def test_key_with_another_body_is_refused(api: httpx.Client) -> None:
    post(api, "two")
    refused = post(api, "two", temperature=0.5)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "idempotency_key_reused")
    for key, status in (("x" * 255, 200), ("x" * 256, 400), ("", 400)):
        assert post(api, key).status_code == status
    with ThreadPoolExecutor(2) as pool:  # nobody waits for the one that came first to be told no
        both = [pool.submit(post, api, "three", max_tokens=most, ignore_eos=True) for most in (200, 201)]
        assert [one.result().status_code for one in as_completed(both)] == [422, 200]


def test_keys_of_two_tenants_have_nothing_to_do_with_each_other(api: httpx.Client, make: Make, served: Served) -> None:
    with httpx.Client(base_url=served.url, headers=bearer(make("chat", tenant="red")), timeout=60) as red:
        ours, theirs = post(api, "shared"), post(red, "shared")
        assert post(red, "shared", temperature=0.5).status_code == 422
    assert (ours.status_code, theirs.status_code) == (200, 200)
    assert "x-flywheel-replayed" not in theirs.headers
    assert ours.json()["id"] != theirs.json()["id"]


def test_an_answer_kept_without_words_is_made_anew(api: httpx.Client) -> None:
    first, again = (post(api, "unkept", store=False) for _ in range(2))
    assert again.json()["choices"][0]["message"]["content"]
    assert first.json()["id"] != again.json()["id"]


def test_key_of_an_answer_that_never_came_can_be_used_again(api: httpx.Client, served: Served) -> None:
    body = {**ASK, "stream": True, "max_tokens": 1500, "ignore_eos": True}
    headers = {"idempotency-key": "broken"}
    with api.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
        next(response.iter_raw())
    wait_until(lambda: [row.status for row in rows_under(served, "broken")] == ["cancelled"])
    with api.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
        assert response.status_code == 200
        assert "x-flywheel-replayed" not in response.headers
        next(response.iter_raw())
    wait_until(lambda: [row.status for row in rows_under(served, "broken")] == ["cancelled"])
