"""The choices of one answer: put together from streamed events, or taken from a whole body.

Only what OpenAI's streams split is joined (words, refusals, tool call arguments); any other field of a delta is kept as
its last chunk said it. Role and annotations are ours to leave alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from flywheel.interactions import Choice
from flywheel.messages import Message

JOINED = ("content", "refusal", "reasoning_content", "reasoning")
PLAIN = {"role", "content", "refusal", "annotations"}


class StreamedChoices:
    """The choices of a stream. Events are only put aside until somebody asks, and each is parsed once."""

    def __init__(self) -> None:
        self._unread: list[bytes] = []
        self._found: dict[int, Choice] = {}

    def keep(self, events: bytes) -> None:
        """Whole events, as they came."""
        self._unread.append(events)

    def so_far(self) -> list[Choice]:
        """Every choice, by index."""
        unread, self._unread = b"".join(self._unread), []
        for chunk in _chunks(unread):
            for part in chunk.get("choices", ()):
                self._add(part)
        return [self._found[index] for index in sorted(self._found)]

    def _add(self, part: Mapping[str, Any]) -> None:
        index = part.get("index", 0)
        choice = self._found.get(index)
        if choice is None:
            choice = self._found[index] = Choice(index=index, message={"role": "assistant", "content": None})
        _join(choice.message, part.get("delta") or {})
        if part.get("finish_reason"):
            choice.finish_reason = part["finish_reason"]


def _chunks(events: bytes) -> list[dict[str, Any]]:
    """What the events hold. Read as one JSON array, since inside of JSON no line ever ends; one by one where something
    else stands between them (a comment)."""
    listed = events.removesuffix(b"data: [DONE]\n\n")[len(b"data: ") :].rstrip().replace(b"\n\ndata: ", b",")
    try:
        found = orjson.loads(b"[" + listed + b"]")
    except orjson.JSONDecodeError:
        found = [orjson.loads(event[6:]) for event in events.split(b"\n\n") if event.startswith(b"data: {")]
    return [chunk for chunk in found if isinstance(chunk, dict)]


def whole_choices(answer: Mapping[str, Any]) -> list[Choice]:
    """Every choice of an answer that came in one piece."""
    return [Choice(part["index"], part["message"], part["finish_reason"]) for part in answer["choices"]]


def message_of(choices: Sequence[Choice], index: int = 0) -> Message:
    """The message of one choice; empty when there is none."""
    for choice in choices:
        if choice.index == index:
            return choice.message
    return {}


def words_of(choices: Sequence[Choice], index: int = 0) -> str:
    """The words of one choice; empty when it has none."""
    return message_of(choices, index).get("content") or ""


def length_of(choices: Sequence[Choice]) -> int:
    """The words of choice 0; each of its tool calls counts as one."""
    message = message_of(choices)
    return len((message.get("content") or "").split()) + len(message.get("tool_calls") or ())


def worth_keeping_whole(choices: Sequence[Choice]) -> bool:
    """Whether the words of choice 0 are not all there is."""
    if len(choices) != 1:
        return len(choices) > 1
    message = choices[0].message
    return not message.keys() <= PLAIN and any(value for name, value in message.items() if name not in PLAIN)


def _join(message: dict[str, Any], delta: Mapping[str, Any]) -> None:
    for name, value in delta.items():
        if name == "tool_calls":
            calls = message.setdefault("tool_calls", [])
            for part in value or ():
                _join_call(calls, part)
        elif name in JOINED and isinstance(value, str):
            message[name] = (message.get(name) or "") + value
        elif value is not None:
            message[name] = value


def _join_call(calls: list[dict[str, Any]], part: Mapping[str, Any]) -> None:
    """One piece of a tool call: the first has its id and name, later ones more of its arguments."""
    place = part.get("index", len(calls))
    while len(calls) <= place:
        calls.append({"type": "function", "function": {"name": "", "arguments": ""}})
    call, function = calls[place], part.get("function") or {}
    call.update({name: part[name] for name in ("id", "type") if part.get(name)})
    call["function"]["name"] = function.get("name") or call["function"]["name"]
    call["function"]["arguments"] += function.get("arguments") or ""
