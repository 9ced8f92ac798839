"""The outermost of our layers: a request's id, its line in the log, and the last handler.

Every request has an id (the client's own, when it is sane) and every answer says it; what nobody caught becomes a 500
in OpenAI's shape. The path is logged without its query, which may hold words.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable
from typing import Any

import orjson
import uuid_utils
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.logs import RequestLines
from serving.protocol import error_body, send_bytes

SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
QUIET = {"/healthz", "/readyz", "/metrics"}
"""Asked by machines every few seconds; logged only when they fail."""
log = logging.getLogger(__name__)


class RequestLayer:
    """Around the whole application."""

    def __init__(self, app: ASGIApp, *, lines: RequestLines) -> None:
        self.app, self.lines = app, lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begun, status = time.monotonic(), 0
        request_id = scope["request_id"] = _request_id(scope)

        def send_with_id(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((b"x-request-id", request_id.encode()))
            return send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception:
            log.exception("request %s failed", request_id)
            if not status:
                text = f"Something went wrong inside Flywheel; its log holds the cause under request id {request_id}."
                await send_bytes(send_with_id, 500, orjson.dumps(error_body(text, status=500, code="internal_error")))
        finally:
            if scope["path"] not in QUIET or status >= 400:
                self.lines.add(_line(scope, status, time.monotonic() - begun))
        return None


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text: str = value.decode("latin-1")
            if SANE_REQUEST_ID.fullmatch(text):
                return text
    return f"req_{uuid_utils.uuid7().hex}"


def _line(scope: Scope, status: int, seconds: float) -> dict[str, Any]:
    caller = scope.get("state", {}).get("caller")
    key = caller.key if caller is not None else None
    return {
        "time": time.time(),
        "request_id": scope["request_id"],
        "method": scope["method"],
        "path": _without_token(scope["path"]),
        "status": status or None,
        "milliseconds": round(1000 * seconds, 1),
        "tenant": caller.tenant if caller is not None else None,
        "key": key.id if key is not None else None,
    }


def _without_token(path: str) -> str:
    return "/rate/…" if path.startswith("/rate/") else path
