"""A stored answer as a client sees it again: one body, or the events of a stream.

Citations are made anew from the passages. Log-probabilities are never kept, so they are null here.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import orjson

from flywheel.interactions import Interaction, choices_of
from serving.citations import url_citations


def completion_body(row: Interaction) -> dict[str, Any]:
    """One completion as OpenAI's API writes it, with its passages."""
    return {
        "id": row.id,
        "object": "chat.completion",
        "created": int(row.asked_at.timestamp()),
        "model": row.alias,
        "system_fingerprint": row.adapter,
        "request_id": row.request_id,
        "metadata": row.client_metadata,
        "choices": _choices(row),
        "usage": _usage(row),
        "passages": [passage.model_dump() for passage in row.passages],
    }


def whole_events(body: dict[str, Any], *, usage: bool) -> bytes:
    """A completion's body as a stream, without its end: each choice in one event, its finish in another."""
    head = {name: body[name] for name in ("id", "created", "model", "system_fingerprint")}
    head["object"] = "chat.completion.chunk"
    parts: list[dict[str, Any]] = []
    for choice in body["choices"]:
        delta = dict(choice["message"])
        if delta.get("tool_calls"):
            delta["tool_calls"] = [{"index": place, **call} for place, call in enumerate(delta["tool_calls"])]
        parts.append({"choices": [{"index": choice["index"], "delta": delta, "finish_reason": None}]})
        parts.append({"choices": [{"index": choice["index"], "delta": {}, "finish_reason": choice["finish_reason"]}]})
    if usage:
        parts.append({"choices": [], "usage": body["usage"]})
    return b"".join(b"data: " + orjson.dumps(head | part) + b"\n\n" for part in parts)


def replay_headers(row: Interaction) -> dict[str, str]:
    """Who spoke when it was first answered, and that this is a replay."""
    spoke = {"adapter": row.adapter, "arm": row.arm, "route": row.route, "epoch": row.epoch}
    spoke |= {"prompt": row.prompt_version, "replayed": "true"}
    return {f"x-flywheel-{name}": value for name, value in spoke.items() if value}


def _choices(row: Interaction) -> list[dict[str, Any]]:
    found = [asdict(choice) | {"logprobs": None} for choice in choices_of(row)]
    for choice in found if row.passages else []:
        choice["message"]["annotations"] = url_citations(row.passages, choice["message"].get("content") or "")
    return found


def _usage(row: Interaction) -> dict[str, int]:
    tokens = {"prompt_tokens": row.prompt_tokens or 0, "completion_tokens": row.completion_tokens or 0}
    return tokens | {"total_tokens": sum(tokens.values())}
