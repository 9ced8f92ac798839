"""An engine without a model, for measuring what stands in front of it: `python -m benchmarks.mock_engine PORT`.

It speaks as much of vLLM's HTTP as serving needs. The last message says how it answers: "chunks=8 delay=0.01" gives
eight words, ten milliseconds apart; without that one word at once. The words name the request, so that no two answers
are alike.
"""

from __future__ import annotations

import asyncio
import re
import sys
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

WISH = re.compile(rb"chunks=(\d+)(?: delay=([\d.]+))?")
EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8")]


class Chat:
    """The chat endpoint, on bare ASGI: what measures a gateway must not be slower than it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = b""
        while (message := await receive())["type"] == "http.request":
            raw += message["body"]
            if not message["more_body"]:
                break
        body = orjson.loads(raw)
        found = WISH.search(raw[raw.rfind(b"chunks=") :] if b"chunks=" in raw else b"")
        chunks, delay = (int(found[1]), float(found[2] or 0)) if found else (1, 0.0)
        handle = next((value.decode() for name, value in scope["headers"] if name == b"x-request-id"), "none")
        name = {"id": f"chatcmpl-{handle}", "object": "chat.completion.chunk", "created": 0, "model": body["model"]}
        usage = {"prompt_tokens": 9, "completion_tokens": chunks, "total_tokens": 9 + chunks}
        words = [f"{handle}.{number} " for number in range(chunks)]
        if body.get("stream"):
            return await self._stream(send, name, words, delay, usage)
        await asyncio.sleep(delay * chunks)
        message = {"role": "assistant", "content": "".join(words)}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        whole = orjson.dumps({**name, "object": "chat.completion", "choices": choices, "usage": usage})
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(whole)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": whole})
        return None

    async def _stream(self, send: Send, name: dict[str, Any], words: list[str], delay: float, usage: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        for word in words:
            if delay:
                await asyncio.sleep(delay)
            await self._send(send, event(name, [{"index": 0, "delta": {"content": word}, "finish_reason": None}]))
        await self._send(send, event(name, [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}]))
        await self._send(send, event({**name, "usage": usage}, []))
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def _send(self, send: Send, piece: bytes) -> None:
        await send({"type": "http.response.body", "body": piece, "more_body": True})


def event(name: dict[str, Any], choices: list[dict[str, Any]]) -> bytes:
    return b"data: " + orjson.dumps({**name, "choices": choices}) + b"\n\n"


class Adapters:
    """Which it holds, and where each was loaded from."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}

    async def models(self, _request: Request) -> Response:
        cards = [{"id": name, "root": root, "parent": "base"} for name, root in self.held.items()]
        return JSONResponse({"data": cards})

    async def load(self, request: Request) -> Response:
        body = await request.json()
        self.held[body["lora_name"]] = body["lora_path"]
        return Response("Success")

    async def unload(self, request: Request) -> Response:
        self.held.pop((await request.json())["lora_name"], None)
        return Response("Success")


async def tokenize(_request: Request) -> Response:
    return JSONResponse({"tokens": [1, 2, 3]})


async def complete(_request: Request) -> Response:
    probes = [None, {"2": {"logprob": -1.0}}, {"3": {"logprob": -1.0}}]
    return JSONResponse({"choices": [{"prompt_logprobs": probes}]})


async def health(_request: Request) -> Response:
    return Response()


def engine_app(chats: Any) -> Starlette:
    """An engine that answers chats as told."""
    adapters = Adapters()
    return Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/models", adapters.models),
            Route("/v1/load_lora_adapter", adapters.load, methods=["POST"]),
            Route("/v1/unload_lora_adapter", adapters.unload, methods=["POST"]),
            Route("/tokenize", tokenize, methods=["POST"]),
            Route("/v1/completions", complete, methods=["POST"]),
            Route("/v1/chat/completions", chats, methods=["POST"]),
        ]
    )


if __name__ == "__main__":
    uvicorn.run(
        engine_app(Chat()),
        port=int(sys.argv[1]),
        log_level="error",
        loop="uvloop",
        http="httptools",
        timeout_keep_alive=75,
    )
