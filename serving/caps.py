"""The most that one chat may ask of the engine: choices, tokens of its answer, tokens of its prompt.

Checked before anything is recorded or generated. A token stands for at least one byte, so only requests with more bytes
than tokens allowed are counted, by the engine's own tokenizer and chat template.
"""

from __future__ import annotations

from typing import Any

from flywheel.settings import ServingSettings
from serving.engine import Engine
from serving.protocol import ChatBody, RequestError

WIDE = 10**9
"""More than any engine takes."""
LONGEST = "serving.max_answer_tokens"


def check_asked(view: ChatBody, settings: ServingSettings) -> None:
    """Raises RequestError when more choices or a longer answer is asked for than one chat may have."""
    if view.n is not None:
        _check("n", view.n, settings.max_choices, "serving.max_choices")
    if view.max_tokens is not None:
        _check("max_tokens", view.max_tokens, settings.max_answer_tokens or WIDE, LONGEST)
    if view.max_completion_tokens is not None:
        _check("max_completion_tokens", view.max_completion_tokens, settings.max_answer_tokens or WIDE, LONGEST)


def _check(name: str, asked: int, most: int, setting: str) -> None:
    if not 1 <= asked <= most:
        raise RequestError(f"{name}: {asked} is outside 1 … {most} ({setting}).", param=name)


async def check_prompt(body: dict[str, Any], *, most: int, engine: Engine, adapter: str) -> None:
    """Raises RequestError when the prompt has more than `most` tokens, UnavailableError when nobody can count them."""
    tokens = await engine.count_tokens({"model": adapter, "messages": body["messages"], "tools": body.get("tools")})
    if tokens > most:
        raise RequestError(
            f"messages: {tokens} tokens are more than one prompt may have: {most} (serving.max_prompt_tokens).",
            param="messages",
            code="context_length_exceeded",
        )
