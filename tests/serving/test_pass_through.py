"""Everything the engine can do comes through: the same body asked of vLLM itself and of the alias gives the same."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.conftest import Served

pytestmark = pytest.mark.engine

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Bonn", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
SCHEMA = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
CALLED = {"type": "function", "function": {"name": "weather"}}
FEATURES: dict[str, dict[str, Any]] = {
    "tools": {"tools": [WEATHER], "tool_choice": CALLED, "parallel_tool_calls": False, "max_tokens": 60},
    "schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "yes", "schema": SCHEMA}}},
    "logprobs": {"logprobs": True, "top_logprobs": 3},
    "choices": {"n": 2, "temperature": 0.5, "top_k": 1},  # vLLM refuses several choices where nothing is drawn
    "seed": {"seed": 7},
    "stop": {"stop": ["."]},
    "bias": {"logit_bias": {"5": -100, "6": 3}},
    "penalties": {"presence_penalty": 0.5, "frequency_penalty": 0.5},
}
RESHAPING = ("tools", "schema", "logprobs", "choices")
"""What changes an answer's form, and so its pieces."""
LABELS = {"metadata": {"shop": "north"}, "store": True, "safety_identifier": "ann", "service_tier": "auto"}
TOGETHER = [
    ("tools", "logprobs"),
    ("schema", "logprobs"),
    ("schema", "choices"),
    ("logprobs", "choices", "stop", "bias", "penalties"),
    ("tools", "logprobs", "seed", "stop", "bias", "penalties"),
]
"""Never a seed where something is drawn: that kills vLLM on a CPU."""
OURS = {"metadata", "store", "safety_identifier"}
"""Not the engine's business."""
ASKED = {"messages": [{"role": "user", "content": "Is it sunny?"}], "temperature": 0, "max_tokens": 24}


def body_of(*names: str, stream: bool) -> dict[str, Any]:
    body: dict[str, Any] = {**ASKED, **LABELS, "stream": stream}
    for name in names:
        body |= FEATURES[name]
    return body | ({"stream_options": {"include_usage": True}} if stream else {})


def said(answer: httpx.Response, *, stream: bool) -> list[dict[str, Any]]:
    """Each choice with all its words, tool calls and log-probabilities; then the usage, where it was told."""
    assert answer.status_code == 200, answer.text
    if not stream:
        whole = answer.json()
        return [*(_choice(one, one["message"]) for one in whole["choices"]), {"usage": whole["usage"]}]
    assert answer.text.endswith("data: [DONE]\n\n")
    chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    parts: dict[int, list[dict[str, Any]]] = {}
    for one in (choice for chunk in chunks for choice in chunk["choices"]):
        parts.setdefault(one["index"], []).append(_choice(one, one["delta"]))
    return [
        *(_joined(found) for _, found in sorted(parts.items())),
        *({"usage": chunk["usage"]} for chunk in chunks if chunk.get("usage") and not chunk["choices"]),
    ]


def _choice(choice: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    calls = [call["function"] for call in message.get("tool_calls") or []]
    return {
        "index": choice["index"],
        "finish_reason": choice["finish_reason"],
        "content": message.get("content") or "",
        "called": [call.get("name") for call in calls if call.get("name")],
        "arguments": "".join(call.get("arguments") or "" for call in calls),
        "logprobs": _rounded((choice.get("logprobs") or {}).get("content") or []),
    }


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Where an answer is cut into pieces is the moment's doing."""
    whole = parts[0]
    for part in parts[1:]:
        sums = {name: whole[name] + part[name] for name in ("content", "called", "arguments", "logprobs")}
        whole = {**sums, "index": part["index"], "finish_reason": part["finish_reason"] or whole["finish_reason"]}
    return whole


def _rounded(found: Any) -> Any:
    """The engine's batches differ in the last digits."""
    if isinstance(found, float):
        return round(found, 2) + 0.0
    if isinstance(found, dict):
        return {key: _rounded(one) for key, one in found.items()}
    return [_rounded(one) for one in found] if isinstance(found, list) else found


@pytest.mark.parametrize(
    ("names", "stream"),
    [
        *(((name,), False) for name in FEATURES),
        *(((name,), True) for name in RESHAPING),
        *((one, True) for one in TOGETHER),
    ],
)
def test_the_alias_answers_as_the_engine_itself_does(
    api: httpx.Client, served: Served, engine_url: str, names: tuple[str, ...], stream: bool
) -> None:
    body = body_of(*names, stream=stream)
    adapter = served.app.appliance.live.standing.champion
    engines = {name: value for name, value in body.items() if name not in OURS} | {"model": adapter}
    expected = httpx.post(f"{engine_url}/v1/chat/completions", json=engines, timeout=60)
    ours = api.post("/v1/chat/completions", json=body | {"model": "flywheel-plain"})
    assert said(ours, stream=stream) == said(expected, stream=stream)


def test_a_tool_call_is_recorded_and_its_result_goes_on(api: httpx.Client, served: Served) -> None:
    first = api.post("/v1/chat/completions", json=body_of("tools", stream=False) | {"model": "flywheel-plain"}).json()
    message = first["choices"][0]["message"]
    [call] = message["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", "weather")
    stored = api.get(f"/v1/chat/completions/{first['id']}").json()
    assert stored["choices"][0]["message"]["tool_calls"] == message["tool_calls"]
    result = {"role": "tool", "tool_call_id": call["id"], "content": "sunny"}
    asked: list[Any] = [{"role": "user", "content": "Is it sunny?"}, message, result]
    following = {**ASKED, "model": "flywheel-plain", "messages": asked}
    assert api.post("/v1/chat/completions", json=following).status_code == 200
