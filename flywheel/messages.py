"""Chat messages as OpenAI's API spells them. Kept as they came; read only through the functions here.

`content` is a string, a list of parts ({"type": "text", "text": …}), or null (tool calls). Nothing else is
interpreted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

Message = dict[str, Any]


def message_text(message: Mapping[str, Any]) -> str:
    """The words of one message: its string content, or its text parts joined by newlines."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(
            part.get("text", "") for part in content if isinstance(part, Mapping) and part.get("type") == "text"
        )
    return ""


def last_user_text(messages: Iterable[Mapping[str, Any]]) -> str:
    """The words of the last user message, or an empty string when there is none."""
    texts = [message_text(message) for message in messages if message.get("role") == "user"]
    return texts[-1] if texts else ""


def conversation_key(messages: Iterable[Mapping[str, Any]], *, user: str | None) -> str:
    """A stable key for a conversation whose client names none: the user and the first thing they said."""
    first = next((message_text(message) for message in messages if message.get("role") == "user"), "")
    return hashlib.sha256(f"{user or ''}\n{first}".encode()).hexdigest()[:24]
