"""An engine without a model, for measuring what stands in front of it: `python -m benchmarks.mock_engine PORT`.

It speaks as much of vLLM's HTTP as serving needs. The last message says how it answers: "chunks=8 delay=0.01" gives
eight words, ten milliseconds apart; without that one word at once. The words name the request, so that no two answers
are alike.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

WISH = re.compile(r"chunks=(\d+)(?: delay=([\d.]+))?")
loaded: set[str] = set()


def words(handle: str, content: str) -> tuple[list[str], float]:
    """The answer to a request, word by word, and the pause between two."""
    found = WISH.search(content)
    chunks, delay = (int(found[1]), float(found[2] or 0)) if found else (1, 0.0)
    return [f"{handle}.{number} " for number in range(chunks)], delay


async def chat(request: Request) -> Response:
    body = orjson.loads(await request.body())
    handle = request.headers.get("x-request-id", "none")
    said, delay = words(handle, str(body["messages"][-1]["content"]))
    name = {"id": f"chatcmpl-{handle}", "object": "chat.completion.chunk", "created": 0, "model": body["model"]}
    if body.get("stream"):
        return StreamingResponse(stream(name, said, delay), media_type="text/event-stream")
    await asyncio.sleep(delay * len(said))
    message = {"role": "assistant", "content": "".join(said)}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    usage = {"prompt_tokens": 9, "completion_tokens": len(said), "total_tokens": 9 + len(said)}
    return Response(
        orjson.dumps({**name, "object": "chat.completion", "choices": choices, "usage": usage}),
        media_type="application/json",
    )


async def stream(name: dict[str, Any], said: list[str], delay: float) -> AsyncIterator[bytes]:
    for word in said:
        if delay:
            await asyncio.sleep(delay)
        yield event(name, [{"index": 0, "delta": {"content": word}, "finish_reason": None}])
    yield event(name, [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}])
    usage = {"prompt_tokens": 9, "completion_tokens": len(said), "total_tokens": 9 + len(said)}
    yield event({**name, "usage": usage}, [])
    yield b"data: [DONE]\n\n"


def event(name: dict[str, Any], choices: list[dict[str, Any]]) -> bytes:
    return b"data: " + orjson.dumps({**name, "choices": choices}) + b"\n\n"


async def models(_request: Request) -> Response:
    return JSONResponse({"data": [{"id": name, "parent": "base"} for name in loaded]})


async def load(request: Request) -> Response:
    loaded.add((await request.json())["lora_name"])
    return Response("Success")


async def tokenize(_request: Request) -> Response:
    return JSONResponse({"tokens": [1, 2, 3]})


async def complete(_request: Request) -> Response:
    probes = [None, {"2": {"logprob": -1.0}}, {"3": {"logprob": -1.0}}]
    return JSONResponse({"choices": [{"prompt_logprobs": probes}]})


async def health(_request: Request) -> Response:
    return Response()


def engine_app(chats: Callable[[Request], Awaitable[Response]]) -> Starlette:
    """An engine that answers chats as told."""
    return Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/models", models),
            Route("/v1/load_lora_adapter", load, methods=["POST"]),
            Route("/tokenize", tokenize, methods=["POST"]),
            Route("/v1/completions", complete, methods=["POST"]),
            Route("/v1/chat/completions", chats, methods=["POST"]),
        ]
    )


if __name__ == "__main__":
    uvicorn.run(
        engine_app(chat),
        port=int(sys.argv[1]),
        log_level="error",
        loop="uvloop",
        http="httptools",
        timeout_keep_alive=75,
    )
