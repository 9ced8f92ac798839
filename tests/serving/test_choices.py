"""Choices put together from streamed events, as vLLM sends them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flywheel.interactions import Choice
from serving.choices import StreamedChoices, length_of, whole_choices, words_of, worth_keeping_whole


def events(*choices: dict[str, Any]) -> bytes:
    chunks = [{"choices": [choice]} for choice in choices]
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


def streamed(raw: bytes) -> list[Choice]:
    """Kept and asked for after every event, as a long answer is."""
    found, choices = StreamedChoices(), []
    for event in raw.split(b"\n\n"):
        found.keep(event + b"\n\n")
        choices = found.so_far()
    return choices


def call(**piece: Any) -> dict[str, Any]:
    return {"index": 0, "delta": {"tool_calls": [piece]}}


@pytest.mark.parametrize("between", [b"", b": keep-alive\n\n"])
def test_events_that_came_together_say_what_they_say_one_by_one(between: bytes) -> None:
    first = events({"index": 0, "delta": {"role": "assistant", "content": "data: {"}}).removesuffix(b"data: [DONE]\n\n")
    last = events({"index": 0, "delta": {"content": "}\n\ndata: x,"}, "finish_reason": "stop"})
    found = StreamedChoices()
    found.keep(first + between + last)
    assert found.so_far() == streamed(first + last)
    assert words_of(found.so_far()) == "data: {}\n\ndata: x,"


def test_choices_that_come_in_turns_are_told_apart() -> None:
    raw = events(
        {"index": 1, "delta": {"role": "assistant", "content": "b"}},
        {"index": 0, "delta": {"role": "assistant", "content": "a"}},
        {"index": 1, "delta": {"content": "B"}, "finish_reason": "length"},
        {"index": 0, "delta": {"content": "A"}, "finish_reason": "stop"},
    )
    found = streamed(raw)
    assert [(c.index, words_of(found, c.index), c.finish_reason) for c in found] == [
        (0, "aA", "stop"),
        (1, "bB", "length"),
    ]
    assert worth_keeping_whole(found)


def test_tool_call_is_joined_from_its_pieces() -> None:
    raw = events(
        call(index=0, id="call_1", type="function", function={"name": "find", "arguments": ""}),
        call(index=0, function={"arguments": '{"q": '}),
        call(index=1, id="call_2", type="function", function={"name": "count", "arguments": "{}"}),
        call(index=0, function={"arguments": '"x"}'}),
        {"index": 0, "delta": {}, "finish_reason": "tool_calls"},
    )
    [choice] = streamed(raw)
    calls = [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in choice.message["tool_calls"]]
    assert calls == [("call_1", "find", '{"q": "x"}'), ("call_2", "count", "{}")]
    assert (words_of([choice]), choice.finish_reason) == ("", "tool_calls")
    assert worth_keeping_whole([choice])
    assert length_of([choice]) == 2


def test_plain_words_of_one_choice_are_not_kept_twice() -> None:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "Hello.",
        "refusal": None,
        "annotations": [],
        "tool_calls": [],
    }
    assert not worth_keeping_whole(
        whole_choices({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
    )


def test_refusals_and_reasoning_are_joined_and_other_fields_kept_as_last_said() -> None:
    raw = events(
        {"index": 0, "delta": {"refusal": "I ", "reasoning": "He ", "reasoning_content": "he "}},
        {
            "index": 0,
            "delta": {"refusal": "won't.", "reasoning": "asks.", "reasoning_content": "asks.", "mood": "grave"},
        },
        {"index": 0, "delta": {"mood": "gay"}, "finish_reason": "stop"},
        {"index": 0, "delta": {}, "finish_reason": None},
    )
    [choice] = streamed(raw)
    assert choice.message == {
        "role": "assistant",
        "content": None,
        "refusal": "I won't.",
        "reasoning": "He asks.",
        "reasoning_content": "he asks.",
        "mood": "gay",
    }
    assert choice.finish_reason == "stop"
    assert worth_keeping_whole([choice])


def test_length_is_counted_in_words_of_the_first_choice() -> None:
    words = [Choice(index=1, message={"tool_calls": [{}]}), Choice(index=0, message={"content": "Two words"})]
    assert length_of(words) == 2


def test_a_chunk_that_is_no_object_is_passed_over() -> None:
    found = StreamedChoices()
    found.keep(b"data: 5\n\n" + events({"index": 0, "delta": {"content": "word"}}))
    assert words_of(found.so_far()) == "word"
