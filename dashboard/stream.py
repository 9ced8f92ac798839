"""A streamed chat answer, read from OpenAI's server-sent events.

`deltas` yields the answer so far each time it grows; the last one is whole. A stream that carries an error, or ends
without a finish reason, is an error and never an answer. A second choice is the other answer of an interleaved
experiment. Tool calls and further choices are not covered.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from flywheel.errors import FlywheelError, UnavailableError


@dataclass
class Answer:
    completion_id: str = ""
    text: str = ""
    other: str | None = None
    """A second answer, of which the reader picks one."""
    finish_reason: str | None = None
    annotations: list[dict[str, Any]] = field(default_factory=list)


def deltas(lines: Iterable[str]) -> Iterator[Answer]:
    """The growing answer. Raises FlywheelError when the stream carries an error or breaks off."""
    answer = Answer()
    for line in lines:
        if not line.startswith("data:") or (payload := line[5:].strip()) == "[DONE]":
            continue
        _add(answer, json.loads(payload))
        yield answer
    if answer.finish_reason is None:
        raise UnavailableError("The answer broke off before its end. Ask again.")


def _add(answer: Answer, chunk: dict[str, Any]) -> None:
    if "error" in chunk:
        raise FlywheelError(str(chunk["error"].get("message", "The engine failed while it answered.")))
    answer.completion_id = chunk.get("id") or answer.completion_id
    for choice in chunk.get("choices", [])[:1]:
        delta = choice.get("delta") or {}
        if choice.get("index") == 1:
            answer.other = (answer.other or "") + (delta.get("content") or "")
            continue
        answer.text += delta.get("content") or ""
        answer.annotations += delta.get("annotations") or []
        answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
