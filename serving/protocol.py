"""The shapes of OpenAI's API that are ours to keep: error bodies, the checks on a chat request's body.

Every error is {"error": {"message", "type", "param", "code"}} with a string code.
A chat body is checked only where we read it: whatever else it holds is the engine's to judge.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Message, Send

from flywheel.database import reason_of
from flywheel.errors import DatabaseTroubleError, EvidenceError, FlywheelError, LimitError, UnavailableError

RETRY_AFTER_SECONDS = 1
UNDER_WAY = "request_under_way"
TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}
PLACE = re.compile(r" - at `\$\.?(?P<place>[^`]*)`$")


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class ChatBody(msgspec.Struct):
    """The fields of a chat request that we read. The body itself stays a dict, and goes on as it came."""

    model: str
    messages: list[dict[str, Any]]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    safety_identifier: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    n: int | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None


class RequestError(FlywheelError):
    """A request that OpenAI's API refuses as well. `param` names the field."""

    status = 400
    code = "invalid_value"

    def __init__(self, message: str, *, param: str | None = None, status: int = 400, code: str = "invalid_value"):
        super().__init__(message)
        self.param, self.status, self.code = param, status, code


def read_chat_body(raw: bytes) -> tuple[dict[str, Any], ChatBody]:
    """The body as it came, and its checked view. Raises RequestError with one line for the first thing wrong."""
    try:
        body = msgspec.json.decode(raw)
        view = msgspec.convert(body, ChatBody)
    except msgspec.ValidationError as error:
        message, place = _explain(str(error))
        raise RequestError(message, param=place) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"The body is not valid JSON: {error}.", code="invalid_json") from error
    if not view.messages:
        raise RequestError("messages is empty: a chat needs at least one message.", param="messages")
    return body, view


def _explain(message: str) -> tuple[str, str | None]:
    found = PLACE.search(message)
    place = found["place"] if found else None
    missing = re.match(r"Object missing required field `(\w+)`", message)
    if missing:
        return f"{missing[1]} is missing: a chat request needs model and messages.", missing[1]
    return f"{place or 'body'}: {PLACE.sub('', message).lower()}.", place


def error_body(message: str, *, status: int, param: str | None = None, code: str, **more: Any) -> dict[str, Any]:
    """One error as OpenAI's clients read it."""
    kind = TYPES.get(status) or ("invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code, **more}}


def error_of(error: FlywheelError, *, request_id: str | None = None) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers for an error raised on purpose. What callers do not hear of the database is logged."""
    if isinstance(error, DatabaseTroubleError) and error.__cause__ is not None:  # the writer logs its own
        log.error("request %s: the database cannot be used: %s", request_id, reason_of(error))
    more = {"missing": error.missing} if isinstance(error, EvidenceError) else {}
    body = error_body(
        str(error), status=error.status, param=getattr(error, "param", None), code=str(error.code), **more
    )
    return error.status, body, retry_headers(error)


def retry_headers(error: FlywheelError) -> dict[str, str]:
    """Whether trying the same again may help. Stock clients retry 408, 409, 429 and 5xx unless they are told not to."""
    if isinstance(error, LimitError):
        return {"retry-after": str(error.retry_after), "x-should-retry": "true"}
    if isinstance(error, UnavailableError) or error.code == UNDER_WAY:
        return {"retry-after": str(RETRY_AFTER_SECONDS), "x-should-retry": "true"}
    return {"x-should-retry": "false"}


log = logging.getLogger(__name__)
Headers = Sequence[tuple[bytes, bytes]]
"""As ASGI takes them."""
LONGEST_NAME = 512
"""Characters of a client's name for a user or a conversation: longer ones are kept in the record, but not in memory."""
JSON_TYPE = (b"content-type", b"application/json")


def encoded(headers: Mapping[str, str]) -> Headers:
    """Named headers as ASGI takes them."""
    return [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]


@lru_cache(maxsize=1024)
def speaker_headers(adapter: str, arm: str | None, route: str, epoch: str | None, prompt: str | None) -> Headers:
    """Who spoke; the same few speak all the time."""
    found = {"adapter": adapter, "arm": arm, "route": route, "epoch": epoch, "prompt": prompt}
    return encoded({f"x-flywheel-{name}": value for name, value in found.items() if value})


async def send_bytes(send: Send, status: int, body: bytes, headers: Headers = ()) -> None:
    """One whole JSON answer over raw ASGI."""
    await send(start_message(status, JSON_TYPE, (b"content-length", b"%d" % len(body)), *headers))
    await send({"type": "http.response.body", "body": body})


def start_message(status: int, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def install_error_handlers(app: FastAPI) -> None:
    """Turn every error of the decorated routes into OpenAI's shape."""

    @app.exception_handler(FlywheelError)
    async def on_purpose(request: Request, error: FlywheelError) -> JSONResponse:
        status, body, headers = error_of(error, request_id=request.scope["request_id"])
        return JSONResponse(body, status, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path")) or None
        broken = first["type"] == "json_invalid"
        message = "The body is not valid JSON." if broken else f"{place or 'body'}: {first['msg']}."
        code = "invalid_json" if broken else "invalid_value"
        return JSONResponse(error_body(message, status=400, param=None if broken else place, code=code), 400)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        message = str(error.detail)
        if error.status_code == 404:
            message = f"Nothing is served at {request.url.path}. The routes are listed at /openapi.json."
        code = CODES.get(error.status_code, "invalid_request")
        return JSONResponse(
            error_body(message, status=error.status_code, code=code), error.status_code, dict(error.headers or {})
        )
