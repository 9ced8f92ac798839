"""Stored completions, choices and picks through the stock client, on a real engine."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from sqlmodel import Session, col, select

from flywheel.interactions import Interaction
from flywheel.pairs import Candidate, Judgment, PreferencePair
from tests.conftest import Served, wait_until

ASK: Any = [{"role": "user", "content": "How much is the Maple plan?"}]
PLAIN: Any = {"model": "flywheel-plain", "messages": ASK, "max_tokens": 12, "temperature": 1.0}


ALIASES = ("flywheel", "flywheel-plain")


def row_of(served: Served, completion_id: str) -> Interaction:
    with Session(served.database) as session:
        return session.get_one(Interaction, completion_id)


@pytest.fixture
def two(client: openai.OpenAI) -> Any:
    """A completion whose two choices differ."""
    for _ in range(8):
        done = client.chat.completions.create(**PLAIN, n=2, metadata={"topic": "price"})
        if len({choice.message.content for choice in done.choices}) == 2:
            return done
    raise AssertionError("two sampled answers never differed")


def test_every_choice_is_kept_as_it_was_said(client: openai.OpenAI, served: Served, two: Any) -> None:
    stored = client.chat.completions.retrieve(two.id)
    assert [c.message.content for c in stored.choices] == [c.message.content for c in two.choices]
    with Session(served.database) as session:
        [offered] = session.exec(select(Candidate).where(Candidate.completion_id == two.id))
    assert (offered.choice, offered.text) == (1, two.choices[1].message.content)


def test_streamed_choices_are_kept_too(client: openai.OpenAI) -> None:
    words, completion_id = {0: "", 1: ""}, ""
    for chunk in client.chat.completions.create(**PLAIN, n=2, stream=True):
        completion_id = chunk.id
        for choice in chunk.choices:
            words[choice.index] += choice.delta.content or ""
    stored = client.chat.completions.retrieve(completion_id)
    assert {choice.index: choice.message.content for choice in stored.choices} == words


def test_pick_of_a_choice_is_a_preference_pair_at_once(api: httpx.Client, served: Served, two: Any) -> None:
    def pick(choice: int) -> httpx.Response:
        body = {"completion_id": two.id, "name": "pick", "choice": choice, "user": "ann"}
        return api.post("/v1/feedback", json=body)

    assert [pick(choice).status_code for choice in (1, 1, 0, 1, 0)] == [200] * 5
    with Session(served.database) as session:
        query = select(PreferencePair).where(PreferencePair.completion_id == two.id)
        pairs = list(session.exec(query.order_by(col(PreferencePair.id))))
        judgments = list(session.exec(select(Judgment).where(col(Judgment.pair_id).in_([pair.id for pair in pairs]))))
    assert [pair.state for pair in pairs] == ["dropped", "dropped", "dropped", "decided"]
    chosen = {"a": pairs[-1].a, "b": pairs[-1].b}[pairs[-1].chosen or ""]
    assert chosen == two.choices[0].message.content
    assert {(row.reviewer, row.source) for row in judgments} == {("ann", "person")}


def test_correction_waits_for_a_reviewer_beside_the_choice_it_corrects(
    api: httpx.Client, served: Served, two: Any
) -> None:
    def correct(choice: int, text: str) -> None:
        body = {"completion_id": two.id, "choice": choice, "correction": text, "user": "ann"}
        api.post("/v1/feedback", json=body).raise_for_status()

    given = [choice.message.content for choice in two.choices]
    for choice, text in ((0, "Ask Olga."), (0, "Ask Olga."), (1, "Ask Mira."), (0, given[0])):
        correct(choice, text)
    with Session(served.database) as session:
        mine = (PreferencePair.completion_id == two.id, PreferencePair.state == "waiting")
        pairs = list(session.exec(select(PreferencePair).where(*mine).order_by(col(PreferencePair.id))))
    assert [{pair.a, pair.b} for pair in pairs] == [{given[0], "Ask Olga."}, {given[1], "Ask Mira."}]
    shown = api.get("/v1/reviews/next", params={"reviewer": "mira"}).json()["pair"]
    assert shown["id"] == pairs[0].id
    assert "candidate" not in str(shown)
    client_pick = {"completion_id": two.id, "name": "pick", "choice": 1, "correction": "Ask Noor.", "user": "noor"}
    api.post("/v1/feedback", json=client_pick).raise_for_status()


def test_pick_of_the_worst_is_no_pick(api: httpx.Client, two: Any) -> None:
    body = {"completion_id": two.id, "name": "pick", "choice": 1, "value": False}
    assert api.post("/v1/feedback", json=body).status_code == 400


@pytest.mark.parametrize("field", ["user", "actor", "comment", "name"])
@pytest.mark.parametrize("text", ["x\\ud800", "x\\u0000"])
def test_text_that_cannot_be_stored_is_refused_and_harms_nobody(
    api: httpx.Client, two: Any, field: str, text: str
) -> None:
    raw = f'{{"completion_id": "{two.id}", "value": true, "{field}": "{text}"}}'
    refused = api.post("/v1/feedback", content=raw, headers={"content-type": "application/json"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_value")
    assert api.post("/v1/feedback", json={"completion_id": two.id, "value": True}).status_code == 200


def test_choice_that_does_not_exist_cannot_be_rated(api: httpx.Client, two: Any) -> None:
    answer = api.post("/v1/feedback", json={"completion_id": two.id, "value": True, "choice": 2})
    assert answer.status_code == 400
    assert "has 2, from 0 on" in answer.json()["error"]["message"]


def test_feedback_with_an_id_is_kept_once(api: httpx.Client, two: Any) -> None:
    body = {"completion_id": two.id, "value": True, "user": "ann", "id": "click-1"}
    first, again = api.post("/v1/feedback", json=body), api.post("/v1/feedback", json=body)
    assert first.json()["ids"] == again.json()["ids"]
    api.post("/v1/feedback", json={**body, "value": False, "id": "click-2"})
    late = api.post("/v1/feedback", json=body)
    assert late.json()["ids"] == first.json()["ids"]
    other = api.post("/v1/feedback", json={**body, "value": False})
    assert (other.status_code, other.json()["error"]["code"]) == (409, "conflict")


def test_stored_completions_are_listed_by_metadata_and_paged(client: openai.OpenAI) -> None:
    made = [client.chat.completions.create(**PLAIN, metadata={"batch": "seven"}).id for _ in range(3)]
    pages = client.chat.completions.list(metadata={"batch": "seven"}, limit=2)
    assert [stored.id for stored in pages.data] == made[:2]
    assert [stored.id for stored in pages] == made
    newest = client.chat.completions.list(metadata={"batch": "seven"}, limit=1, order="desc")
    assert newest.data[0].id == made[2]
    assert newest.data[0].metadata == {"batch": "seven"}
    assert client.chat.completions.list(metadata={"batch": "eight"}).data == []
    asked_of = {name: client.chat.completions.list(metadata={"batch": "seven"}, model=name).data for name in ALIASES}
    assert [len(found) for found in asked_of.values()] == [0, 3]


def test_a_stored_completion_says_what_the_answer_said(client: openai.OpenAI, served: Served) -> None:
    raw = client.chat.completions.with_raw_response.create(**PLAIN)
    done = raw.parse()
    stored: Any = client.chat.completions.retrieve(done.id)
    assert (stored.model, stored.system_fingerprint, stored.usage) == (done.model, done.system_fingerprint, done.usage)
    assert stored.choices[0].finish_reason == done.choices[0].finish_reason
    assert stored.request_id == raw.headers["x-request-id"]
    assert stored.created == int(row_of(served, done.id).asked_at.timestamp())


def test_an_answer_under_way_is_neither_retrieved_nor_deleted(api: httpx.Client) -> None:
    body = {**PLAIN, "stream": True, "max_tokens": 1000, "ignore_eos": True}
    with api.stream("POST", "/v1/chat/completions", json=body) as answer:
        pieces = answer.iter_lines()  # kept: its end would be the stream's
        place = f"/v1/chat/completions/{json.loads(next(pieces).removeprefix('data: '))['id']}"
        assert (api.get(place).status_code, api.delete(place).status_code) == (404, 409)
    wait_until(lambda: api.get(place.replace("chat/completions", "interactions")).json()["status"] == "cancelled")
    assert (api.get(place).status_code, api.delete(place).status_code) == (404, 200)


def test_metadata_can_be_changed_and_messages_read(client: openai.OpenAI, api: httpx.Client, two: Any) -> None:
    changed = client.chat.completions.update(two.id, metadata={"topic": "plans"})
    assert changed.metadata == {"topic": "plans"}
    for metadata in ({"topic": "x" * 513}, {str(number): "x" for number in range(17)}):
        assert api.post(f"/v1/chat/completions/{two.id}", json={"metadata": metadata}).status_code == 400
    turns: Any = [*ASK, {"role": "assistant", "content": "14 €"}, {"role": "user", "content": "And the Oak plan?"}]
    asked = client.chat.completions.messages.list(
        client.chat.completions.create(**PLAIN | {"messages": turns}).id, limit=2
    )
    assert [message.content for message in asked] == [turn["content"] for turn in turns]
    backwards = client.chat.completions.messages.list(asked.data[0].id.rpartition("-")[0], order="desc")
    assert [message.content for message in backwards] == [turn["content"] for turn in turns[::-1]]


def test_deleted_completion_leaves_no_words_and_no_pair(
    client: openai.OpenAI, api: httpx.Client, served: Served, two: Any
) -> None:
    api.post("/v1/feedback", json={"completion_id": two.id, "name": "pick", "choice": 0, "comment": "Good one."})
    assert client.chat.completions.delete(two.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.retrieve(two.id)
    row = row_of(served, two.id)
    assert (row.content, row.answer, row.messages, row.choices) == ("deleted", None, [], None)
    assert row.completion_tokens
    assert row.answer_words
    again = api.delete(f"/v1/chat/completions/{two.id}")
    assert again.status_code == 404
    with Session(served.database) as session:
        assert not session.exec(select(PreferencePair).where(PreferencePair.completion_id == two.id)).all()
    said = api.get(f"/v1/interactions/{two.id}").json()["feedback"]
    assert [row["text"] for row in said] == [None] * len(said)


@pytest.mark.parametrize("stream", [False, True])
def test_store_false_keeps_counters_only(
    client: openai.OpenAI, api: httpx.Client, served: Served, stream: bool
) -> None:
    done: Any = client.chat.completions.create(**PLAIN, store=False, stream=stream, metadata={"who": "me"})
    completion_id = [chunk.id for chunk in done][-1] if stream else done.id
    row = row_of(served, completion_id)
    assert (row.content, row.messages, row.prompt, row.answer, row.client_metadata) == ("withheld", [], None, None, {})
    assert (row.status, row.parameters, row.choices) == ("finished", {}, None)
    assert row.completion_tokens
    assert row.answer_words is not None
    newest = client.chat.completions.list(limit=100, order="desc").data
    assert completion_id not in [stored.id for stored in newest]
    said = api.post("/v1/feedback", json={"completion_id": completion_id, "value": True, "comment": "I live in Rome."})
    assert said.status_code == 400
    assert api.post("/v1/feedback", json={"completion_id": completion_id, "value": True}).status_code == 200
    with pytest.raises(openai.NotFoundError, match="not stored"):
        client.chat.completions.retrieve(completion_id)
