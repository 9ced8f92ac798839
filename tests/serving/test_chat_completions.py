"""The chat contract as the stock client sees it, in front of a real engine."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from sqlmodel import Session, col, select

from flywheel.interactions import Interaction
from tests.conftest import Served, wait_until

pytestmark = pytest.mark.engine
HI = [{"role": "user", "content": "Hello there"}]


def row_of(served: Served, completion_id: str) -> Any:
    with Session(served.database) as session:
        return session.get_one(Interaction, completion_id)


def rows(served: Served) -> int:
    with Session(served.database) as session:
        return len(session.exec(select(Interaction.id)).all())


def test_plain_answer_names_alias_adapter_and_request(client: Any, served: Served) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="flywheel-plain", messages=HI, max_tokens=6, user="ann", metadata={"conversation_id": "c1"}
    )
    answer = raw.parse()
    row = row_of(served, answer.id)
    assert answer.model == "flywheel-plain"
    assert answer.system_fingerprint == raw.headers["x-flywheel-adapter"] == row.adapter
    assert row.adapter.startswith("identity-")
    assert raw.headers["x-request-id"] == row.request_id
    assert (row.user, row.conversation, row.unit, row.route) == ("ann", "c1", "ann", "plain")
    assert (row.status, row.answer) == ("finished", answer.choices[0].message.content)
    assert row.completion_tokens == answer.usage.completion_tokens == 6
    assert row.prompt == row.messages == HI
    assert row.parameters == {"max_tokens": 6, "temperature": 0.2}


def test_streamed_answer_is_recorded_whole_with_tokens_nobody_asked_for(client: Any, served: Served) -> None:
    chunks = list(client.chat.completions.create(model="flywheel-plain", messages=HI, max_tokens=8, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    row = row_of(served, chunks[0].id)
    assert {chunk.model for chunk in chunks} == {"flywheel-plain"}
    assert {chunk.system_fingerprint for chunk in chunks} == {row.adapter}
    assert chunks[-1].choices[0].finish_reason == row.finish_reason
    assert row.answer == text
    assert row.completion_tokens == 8
    assert row.asked_at <= row.first_token_at <= row.finished_at


def test_usage_chunk_comes_when_asked_for(client: Any) -> None:
    chunks = list(
        client.chat.completions.create(
            model="flywheel-plain", messages=HI, max_tokens=4, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 4
    assert chunks[-1].system_fingerprint == chunks[0].system_fingerprint


def test_unknown_model_is_refused_before_anything_is_done(client: Any, served: Served) -> None:
    before = rows(served)
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="gpt-4", messages=HI)
    assert refused.value.code == "model_not_found"
    assert refused.value.request_id
    assert rows(served) == before


def test_adapter_can_be_asked_for_by_its_name(client: Any, served: Served) -> None:
    name = served.app.appliance.live.standing.champion
    answer = client.chat.completions.create(model=name, messages=HI, max_tokens=2)
    assert answer.model == name
    assert row_of(served, answer.id).arm is None


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        (b'{"model": "flywheel-plain", "messages"', 400, None, "invalid_json"),
        (b'\xff\xfe{"model"', 400, None, "invalid_json"),
        (b'{"model": "flywheel-plain"}', 400, "messages", "invalid_value"),
        (b'{"messages": []}', 400, "model", "invalid_value"),
        (b'{"model": "flywheel-plain", "messages": []}', 400, "messages", "invalid_value"),
        (b'{"model": "flywheel-plain", "messages": "hi"}', 400, "messages", "invalid_value"),
        (b'{"model": "flywheel-plain", "messages": ["hi"]}', 400, "messages[0]", "invalid_value"),
        (b"[]", 400, None, "invalid_value"),
        (b'{"model": "flywheel-plain", "messages": [{}], "x": "' + b"x" * 1_000_000 + b'"}', 413, None, None),
    ],
)
def test_bad_body_gets_one_line_in_openais_shape(
    api: httpx.Client, body: Any, status: Any, param: str | None, code: str | None
) -> None:
    answer = api.post("/v1/chat/completions", content=body)
    error = answer.json()["error"]
    assert answer.status_code == status
    assert error["param"] == param
    assert "\n" not in error["message"]
    assert code is None or error["code"] == code
    assert answer.headers["x-request-id"]


def test_what_the_engine_refuses_is_the_callers_400_and_a_failed_row(client: Any, served: Served) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="flywheel-plain", messages=HI, max_tokens=100_000)
    assert refused.value.param == "max_tokens"

    def last() -> Any:
        with Session(served.database) as session:
            return session.exec(select(Interaction).order_by(col(Interaction.id).desc())).first()

    wait_until(lambda: last().status == "failed")  # the row is closed without a wait for the disk
    assert "max_tokens" in last().error


def test_fields_we_do_not_know_reach_the_engine(client: Any) -> None:
    answer = client.chat.completions.create(
        model="flywheel-plain", messages=HI, max_tokens=3, logprobs=True, n=2, extra_body={"min_tokens": 3, "xyz": 1}
    )
    assert len(answer.choices) == 2
    assert len(answer.choices[1].logprobs.content) == 3


def test_seed_is_kept_from_an_engine_that_would_die_of_it(client: Any, served: Served) -> None:
    answer = client.chat.completions.create(model="flywheel-plain", messages=HI, max_tokens=2, temperature=0.9, seed=7)
    assert row_of(served, answer.id).parameters["seed"] == 7
    assert client.chat.completions.create(model="flywheel-plain", messages=HI, max_tokens=2, temperature=0, seed=7)


def test_own_request_id_comes_back_and_a_hostile_one_does_not(api: httpx.Client) -> None:
    body = {"model": "nobody", "messages": HI}
    kept = api.post("/v1/chat/completions", json=body, headers={"x-request-id": "mine-1"})
    assert kept.headers["x-request-id"] == "mine-1"
    hostile = api.post("/v1/chat/completions", json=body, headers=[(b"x-request-id", b"a b\xe9")])
    assert hostile.headers["x-request-id"].startswith("req_")


def test_unknown_path_and_method_have_openais_shape(api: httpx.Client) -> None:
    missing = api.get("/v1/nothing-here")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    wrong = api.put("/v1/chat/completions")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")


def test_models_lists_aliases_first_then_adapters(client: Any, served: Served) -> None:
    cards = client.models.list().data
    champion = served.app.appliance.live.standing.champion
    assert [card.id for card in cards[:2]] == ["flywheel", "flywheel-plain"]
    assert cards[0].root == champion
    assert champion in [card.id for card in cards[2:]]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")
