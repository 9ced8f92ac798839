"""An engine that answers what the question's first word says: for what a real engine does not do when asked to.

Beside chats it is `benchmarks.mock_engine`. It fails on purpose: `die` (an error in the middle of the stream, then
[DONE], as vLLM does), `cut` (the connection ends), `mute` (it ends before the first word, the first time), `crash`
(500), `gone` (404), `lost` (404 the first time), `slow` (a pause before its last words). `echo` gets the first line of
the system message back, any other word an answer that cites.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from benchmarks.mock_engine import engine_app

PAUSE = 0.7
CITED = "It costs 14 € [1]."
asked: list[dict[str, Any]] = []
asked_as: list[str | None] = []
"""The request ids, of which vLLM refuses one that is under way already."""


def event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


async def chat(request: Request) -> Response:
    body = await request.json()
    asked.append(body)
    asked_as.append(request.headers.get("x-request-id"))
    word = str(body["messages"][-1]["content"]).split()[0]
    name = {"id": f"chatcmpl-{request.headers.get('x-request-id')}", "model": body["model"]}
    if word == "crash":
        return JSONResponse({"error": {"message": "EngineCore encountered an issue.", "code": 500}}, 500)
    if word == "gone" or (word == "lost" and asked.count(body) == 1):
        return JSONResponse({"error": {"message": "The model does not exist.", "code": 404}}, 404)
    if word == "mute" and asked.count(body) == 1:
        return StreamingResponse(mute(), media_type="text/event-stream")
    if body.get("stream"):
        return StreamingResponse(stream(name, word), media_type="text/event-stream")
    first = body["messages"][0]["content"].splitlines()[0]
    message = {"role": "assistant", "content": first if word == "echo" else CITED}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return JSONResponse({**name, "choices": choices, "usage": {"prompt_tokens": 9, "completion_tokens": 5}})


async def mute() -> AsyncIterator[bytes]:
    if asked:
        raise ConnectionAbortedError("as if killed")
    yield b""


async def stream(name: dict[str, Any], word: str) -> AsyncIterator[bytes]:
    first, second = CITED[:7], CITED[7:]
    for part in (first, second):
        await asyncio.sleep(PAUSE if word == "slow" and part == second else 0)
        yield event({**name, "choices": [{"index": 0, "delta": {"content": part}, "finish_reason": None}]})
        if word == "cut":
            return
        if word == "die":
            yield event({"error": {"message": "EngineCore died.", "code": 500}})
            yield b"data: [DONE]\n\n"
            return
    yield event({**name, "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}]})
    yield event({**name, "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 5}})
    yield b"data: [DONE]\n\n"


app = engine_app(chat)


class ScriptedReplica:
    """One on a port of its own."""

    def __init__(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]})
        self.thread.start()

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()
