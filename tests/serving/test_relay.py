"""The relay of streamed events: what is renamed, withheld, kept. The engine's bytes here are vLLM's own, shortened."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flywheel.interactions import Passage
from flywheel.prompt_versions import SHIPPED_WORDING
from serving.choices import words_of
from serving.live import Target
from serving.protocol import ChatBody, StreamOptions
from serving.stream import Relay
from serving.turn import Turn

PASSAGES = [
    Passage(number=1, chunk_id="a", document="Maple plan", section="Price", text="It costs 12 €.", score=0.9),
    Passage(number=2, chunk_id="b", document="Maple plan", section="Users / Team", text="Up to 5.", score=0.8),
]


def turn(*, usage: bool = False, passages: list[Passage] | None = None) -> Turn:
    view = ChatBody("flywheel", [], stream=True, stream_options=StreamOptions(usage))
    target = Target("flywheel", "lora-1", None, routed=True)
    return Turn("r", "default", view, target, None, "c", "c", {}, [], passages=passages or [])


def event(content: str | None = None, *, finish: str | None = None, index: int = 0) -> bytes:
    delta = {} if content is None else {"content": content}
    choices = [{"index": index, "delta": delta, "finish_reason": finish}]
    return _data({"id": "chatcmpl-1", "model": "lora-1", "choices": choices})


def _data(chunk: object) -> bytes:
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


USAGE = _data({"model": "lora-1", "choices": [], "usage": {"completion_tokens": 3}, "system_fingerprint": "vllm"})
DONE = b"data: [DONE]\n\n"


def chunks(sent: bytes) -> list[Any]:
    return [json.loads(part[6:]) for part in sent.split(b"\n\n") if part]


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_events_leave_whole_and_renamed_however_the_bytes_are_cut(size: int) -> None:
    relay = Relay(turn())
    raw = event("Hé") + event('llo "model":"lora-1"') + event(finish="stop") + USAGE + DONE
    sent = b"".join(relay.feed(raw[start : start + size]) for start in range(0, len(raw), size))
    assert [chunk["model"] for chunk in chunks(sent)] == ["flywheel"] * 3
    assert {chunk["system_fingerprint"] for chunk in chunks(sent)} == {"lora-1"}
    assert words_of(relay.choices()) == 'Héllo "model":"lora-1"'
    assert (relay.done, relay.finish_reason, relay.usage["completion_tokens"]) == (True, "stop", 3)


def test_usage_chunk_is_sent_on_only_when_asked_for() -> None:
    raw = event("x") + event(finish="stop") + USAGE + DONE
    assert all(chunk["choices"] for chunk in chunks(Relay(turn()).feed(raw)))
    last = chunks(Relay(turn(usage=True)).feed(raw))[-1]
    assert (last["choices"], last["system_fingerprint"]) == ([], "lora-1")


def test_error_of_the_engine_is_held_back_and_done_never_passes() -> None:
    relay = Relay(turn())
    sent = relay.feed(event("x") + _data({"error": {"message": "EngineCore died", "code": 500}}) + DONE)
    assert relay.error == "EngineCore died"
    assert relay.finish_reason is None
    assert [chunk["choices"][0]["delta"]["content"] for chunk in chunks(sent)] == ["x"]


def test_chunk_that_finishes_carries_the_citations() -> None:
    relay = Relay(turn(passages=PASSAGES))
    sent = relay.feed(event("It costs 12 € [1], for five [2], not [7].") + event(finish="stop") + DONE)
    found = chunks(sent)[-1]["choices"][0]["delta"]["annotations"]
    assert [one["url_citation"]["url"] for one in found] == [
        "/v1/documents/Maple%20plan#Price",
        "/v1/documents/Maple%20plan#Users%20%2F%20Team",
    ]
    first = found[0]["url_citation"]
    assert words_of(relay.choices())[first["start_index"] : first["end_index"]] == "[1]"
    assert first["title"] == "Maple plan – Price"


def test_each_of_several_choices_has_its_own_text() -> None:
    relay = Relay(turn())
    relay.feed(event("a") + event("b", index=1) + event(finish="length", index=1) + event(finish="stop") + DONE)
    assert (*(words_of(relay.choices(), index) for index in (0, 1)), relay.finish_reason) == ("a", "b", "stop")


def test_prompts_are_those_the_starter_was_trained_on() -> None:
    from flywheel.starter import prompt as starter
    from serving import prompts

    made = prompts.knowledge_prompt(SHIPPED_WORDING, [{"role": "user", "content": "?"}], PASSAGES)
    rows = [(found.document, found.section, found.text) for found in PASSAGES]
    assert made[0]["content"] == starter.knowledge_system(rows)
    assert (SHIPPED_WORDING.small_talk, SHIPPED_WORDING.refuse) == (starter.SMALL_TALK, starter.DECLINE)
    assert SHIPPED_WORDING.version == "a765ae3f251b"  # what interactions carry since there are any


def test_clients_system_message_becomes_a_second_paragraph_below_ours() -> None:
    from serving import prompts

    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert prompts.small_talk_prompt(SHIPPED_WORDING, asked) == [
        {"role": "system", "content": f"{SHIPPED_WORDING.small_talk}\n\nBe brief."},
        {"role": "user", "content": "Hi"},
    ]
