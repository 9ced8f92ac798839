"""The most that one chat may ask for, and what our port does not pass on to the engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlmodel import select

from flywheel.database import reading
from flywheel.interactions import Interaction
from flywheel.settings import load_settings
from serving.engine import Engine
from tests.conftest import Served, serving_on, wait_until

pytestmark = pytest.mark.engine
HELLO = [{"role": "user", "content": "Hello"}]
LONG = [{"role": "user", "content": "How much is the Maple plan? " * 20}]
CAPS = {"max_choices": 2, "max_answer_tokens": 20, "max_prompt_tokens": 100}


@pytest.fixture(scope="module")
def capped(engine_url: str, base_model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home: Path = tmp_path_factory.mktemp("capped")
    serving: dict[str, Any] = {"port": 0, "reconcile_seconds": 0.3, **CAPS}
    settings = load_settings(home=home, base_model=base_model, engine={"urls": [engine_url]}, serving=serving)
    with serving_on(settings) as found:
        wait_until(lambda: ask(found, max_tokens=1).status_code == 200, seconds=120)
        yield found


def ask(served: Served, **body: Any) -> httpx.Response:
    whole = {"model": "flywheel-plain", "messages": HELLO, "max_tokens": 5} | body
    return httpx.post(f"{served.url}/v1/chat/completions", json=whole, headers=served.authorized, timeout=60)


def rows(served: Served) -> int:
    with reading(served.database) as session:
        return len(session.exec(select(Interaction.id)).all())


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"n": 3}, "n", "3 is outside 1 … 2"),
        ({"n": 0}, "n", "0 is outside 1 … 2"),
        ({"n": "3"}, "n", "expected `int | null`, got `str`"),  # vLLM would take these for the number
        ({"n": 3.0}, "n", "expected `int | null`, got `float`"),
        ({"max_tokens": 21}, "max_tokens", "21 is outside 1 … 20"),
        ({"max_tokens": None, "max_completion_tokens": 21}, "max_completion_tokens", "serving.max_answer_tokens"),
        ({"messages": LONG}, "messages", "more than one prompt may have: 100"),
        ({"messages": LONG, "stream": True}, "messages", "serving.max_prompt_tokens"),
    ],
)
def test_more_than_one_chat_may_have_is_refused_before_anything_is_done(
    capped: Served, body: dict[str, Any], param: str, words: str
) -> None:
    before = rows(capped)
    refused = ask(capped, **body)
    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (400, param)
    assert words in error["message"]
    assert error["code"] == ("context_length_exceeded" if param == "messages" else "invalid_value")
    assert refused.headers["x-should-retry"] == "false"
    assert rows(capped) == before


def test_what_fits_is_answered(capped: Served) -> None:
    assert len(ask(capped, n=2, max_tokens=20).json()["choices"]) == 2


def test_an_answer_without_a_wish_is_no_longer_than_the_most_that_may_be_asked_for(capped: Served) -> None:
    answer = ask(capped, max_tokens=None, ignore_eos=True).json()
    assert answer["usage"]["completion_tokens"] == CAPS["max_answer_tokens"]


def test_a_prompt_of_many_bytes_may_have_exactly_as_many_tokens_as_are_allowed(capped: Served) -> None:
    def the(times: int) -> httpx.Response:
        return ask(capped, messages=[{"role": "user", "content": " the" * times}])

    spare = 100 - the(60).json()["usage"]["prompt_tokens"]
    assert [the(60 + spare).status_code, the(61 + spare).status_code] == [200, 400]


def test_tools_are_counted_with_the_prompt(capped: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []

    async def count(_: Engine, chat: dict[str, Any]) -> int:
        counted.append(chat)
        return 101

    monkeypatch.setattr(Engine, "count_tokens", count)  # the starter's template leaves tools out
    tools = [{"type": "function", "function": {"name": "find", "description": "the " * 200}}]
    assert ask(capped, tools=tools).status_code == 400
    assert [(chat["messages"], chat["tools"]) for chat in counted] == [(HELLO, tools)]


def test_our_port_passes_none_of_the_engines_other_routes_on(served: Served, engine_url: str) -> None:
    theirs = httpx.get(f"{engine_url}/openapi.json").json()["paths"]
    ours = httpx.get(f"{served.url}/openapi.json").json()["paths"]
    assert len(theirs) > 20
    shared = {"/v1/chat/completions", "/v1/models", "/v1/embeddings", "/metrics"}
    assert set(theirs) & (set(ours) | shared) <= shared
    assert {"/v1/load_lora_adapter", "/tokenize", "/invocations"} <= set(theirs)
    for path, methods in theirs.items():
        if path in shared:
            continue
        for method in methods:
            answer = httpx.request(
                method.upper(),
                served.url + path.replace("{", "").replace("}", ""),
                headers=served.authorized,
                json={"metadata": {}},  # /v1/chat/completions/batch is to us a completion of that name
            )
            assert answer.status_code == 404, (method, path)
            assert answer.json()["error"]["code"] == "not_found"
