"""The chat endpoint as /openapi.json tells it: it is bare ASGI, so FastAPI knows nothing of it."""

from __future__ import annotations

from typing import Any

DESCRIPTION: dict[str, Any] = {
    "tags": ["chat"],
    "summary": "Ask",
    "description": "As OpenAI's API has it; fields that are not named here go to the engine as they came.",
    "operationId": "chat_completions",
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["model", "messages"],
                    "properties": {
                        "model": {"type": "string", "description": "An alias, or an adapter's name."},
                        "messages": {
                            "type": "array",
                            "minItems": 1,
                            "items": {
                                "type": "object",
                                "required": ["role", "content"],
                                "properties": {
                                    "role": {"type": "string", "enum": ["system", "user", "assistant"]},
                                    "content": {"type": "string"},
                                },
                            },
                        },
                        "stream": {"type": "boolean"},
                        "user": {"type": "string"},
                        "store": {"type": "boolean"},
                        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
                        "temperature": {"type": "number", "minimum": 0, "maximum": 2},
                        "max_tokens": {"type": "integer", "minimum": 1},
                        "n": {"type": "integer", "minimum": 1},
                    },
                }
            }
        },
    },
    "responses": {
        "200": {
            "description": "The answer, or its events when `stream` is true.",
            "content": {"application/json": {}, "text/event-stream": {}},
        },
        "4XX": {"description": 'What is wrong with the request: {"error": {"message", "type", "param", "code"}}.'},
        "503": {"description": "Nobody can answer now; Retry-After says when to try again."},
    },
}
