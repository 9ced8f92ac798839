"""The figures at /metrics: each counts what its name says."""

from __future__ import annotations

from collections import Counter
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from flywheel.database import writing
from flywheel.keys import Limits, create_key
from serving.live import LiveAliases
from tests.conftest import Served, wait_until

pytestmark = pytest.mark.engine
BODY = {"model": "flywheel-plain", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}
PLAIN = {"alias": "flywheel-plain", "arm": ""}


def figures(api: httpx.Client) -> Counter[Any]:
    """Every sample by its name and labels."""
    told = Counter[Any]()
    for family in text_string_to_metric_families(api.get("/metrics").text):
        for one in family.samples:
            told[one.name, *sorted(one.labels.items())] = one.value  # type: ignore[assignment]
    return told


def at(name: str, **labels: str) -> Any:
    return name, *sorted(labels.items())


def chat(api: httpx.Client, **more: Any) -> httpx.Response:
    return api.post("/v1/chat/completions", json=BODY | more)


def test_chats_tokens_and_times_are_counted(api: httpx.Client) -> None:
    before = figures(api)
    whole = chat(api).json()["usage"]
    chat(api, stream=True).raise_for_status()
    assert chat(api, logit_bias="nonsense").status_code == 400
    chat(api, model="flywheel").raise_for_status()
    rows = at("flywheel_writer_group_rows_sum")
    wait_until(lambda: figures(api)[rows] - before[rows] >= 5, seconds=10)  # a row each; two for the stream
    after = figures(api)

    def more(name: str, **labels: str) -> float:
        return after[at(name, **labels)] - before[at(name, **labels)]

    assert more("flywheel_chats_total", **PLAIN, route="plain", status="finished") == 2
    assert more("flywheel_chats_total", **PLAIN, route="plain", status="failed") == 1
    assert more("flywheel_chats_total", alias="flywheel", arm="", route="small_talk", status="finished") == 1
    assert more("flywheel_chat_seconds_count", **PLAIN) == 3
    assert more("flywheel_chat_seconds_sum", **PLAIN) > more("flywheel_first_token_seconds_sum", **PLAIN) > 0
    assert more("flywheel_first_token_seconds_count", **PLAIN) == 1
    assert more("flywheel_tokens_total", kind="completion") == 9
    assert more("flywheel_tokens_total", kind="prompt") > 2 * whole["prompt_tokens"]


def test_a_chat_of_an_experiment_is_counted_for_its_arm(
    api: httpx.Client, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = served.app.appliance.live.target
    monkeypatch.setattr(LiveAliases, "target", lambda _, name, **who: target(name, **who)._replace(arm="challenger"))
    chat(api, stream=True).raise_for_status()
    told, arm = figures(api), {"alias": "flywheel-plain", "arm": "challenger"}
    assert told[at("flywheel_chats_total", **arm, route="plain", status="finished")] == 1
    assert told[at("flywheel_chat_seconds_count", **arm)] == told[at("flywheel_first_token_seconds_count", **arm)] == 1


def test_refusals_are_counted_by_limit(api: httpx.Client, served: Served) -> None:
    limits = Limits(requests_per_minute=1)
    with writing(served.database) as session:
        _, secret = create_key(session, tenant="default", name="Mira", scope="chat", actor="test", limits=limits)
    headers = {"authorization": f"Bearer {secret}"}
    assert [httpx.get(f"{served.url}/v1/models", headers=headers).status_code for _ in range(3)] == [200, 429, 429]
    assert figures(api)[at("flywheel_limit_refusals", limit="requests")] == 2


def test_what_waits_and_what_is_under_way_is_told(
    api: httpx.Client, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    appliance = served.app.appliance
    engine = {"engine": served.settings.engine.urls[0]}
    long = BODY | {"stream": True, "max_tokens": 1000, "ignore_eos": True}
    with api.stream("POST", "/v1/chat/completions", json=long) as answer:
        pieces = answer.iter_raw()  # kept: its end would be the stream's
        next(pieces)
        assert figures(api)[at("flywheel_engine_requests", **engine)] >= 1
    wait_until(lambda: figures(api)[at("flywheel_engine_requests", **engine)] == 0)
    ready = len(appliance.engines.ready_for(appliance.engines.engines[0]))
    assert figures(api)[at("flywheel_engine_adapters", **engine)] == ready > 0
    monkeypatch.setattr(type(appliance.writer), "waiting", 7)
    assert figures(api)[at("flywheel_writer_waiting")] == 7
