"""POST /v1/chat/completions: a raw ASGI endpoint, because every layer around it would cost more than its own work.

Body → turn (who speaks) → for routed aliases the graph, otherwise straight on → the engine's bytes → closed row.
Whatever happens after the asked row, the row is closed: finished, failed, or cancelled when the client went away
(which also frees the engine). Errors before the first byte have OpenAI's shape and status; later ones are an event
`data: {"error": …}` with no `[DONE]` behind it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Coroutine
from contextlib import suppress

import orjson
from starlette.types import Receive, Scope, Send

from flywheel.errors import FlywheelError
from flywheel.interactions import Choice, Interaction
from serving.access import Caller
from serving.appliance import Appliance
from serving.caps import check_prompt
from serving.conversations import Over
from serving.graph import routed_answer
from serving.http import teller
from serving.idempotency import HEADER, Claim
from serving.protocol import RequestError, encoded, error_of, read_chat_body, send_bytes, start_message
from serving.stored import completion_body, replay_headers, whole_events
from serving.stream import DONE, failed, note_lost, speak
from serving.turn import Turn, open_turn

EVENTS = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))


class ChatCompletions:
    """The endpoint. An instance, since Starlette takes functions for decorated routes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller: Caller = scope["state"]["caller"]
        appliance: Appliance = scope["app"].appliance
        if caller.tenant != appliance.tenant:
            appliance = appliance.seen_by(caller)
        try:
            raw = await read_body(receive, limit=appliance.settings.serving.max_body_bytes)
            keys = [value for name, value in scope["headers"] if name == HEADER]
            if not keys:
                return await self._answer(appliance, scope, receive, send, raw=raw)
            key = keys[0].decode("latin-1")
            async with appliance.idempotency.claim(appliance.tenant, key, raw) as (claim, earlier):
                if earlier is not None:
                    return await replay(send, earlier, raw)
                return await self._answer(appliance, scope, receive, send, raw=raw, claim=claim)
        except FlywheelError as error:
            status, answer, headers = error_of(error, request_id=scope["request_id"])
            return await send_bytes(send, status, orjson.dumps(answer), encoded(headers))

    async def _answer(
        self,
        appliance: Appliance,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        raw: bytes,
        claim: Claim | None = None,
    ) -> None:
        body, view = read_chat_body(raw)
        turn = open_turn(
            body,
            view,
            request_id=scope["request_id"],
            tenant=appliance.tenant,
            live=appliance.live,
            settings=appliance.settings,
        )
        turn.claim = claim
        most = appliance.settings.serving.max_prompt_tokens
        if most is not None and len(raw) > most:
            engine = appliance.engines.engine_for(turn.target.adapter)
            await check_prompt(body, most=most, engine=engine, adapter=turn.target.adapter)
        caller: Caller = scope["state"]["caller"]
        with appliance.live.speaking(turn.target.adapter), appliance.limits.under_way(caller.key):
            try:
                await _until_gone(Answer(appliance, turn, send).run(), scope, receive)
            finally:
                if caller.key is not None:
                    appliance.limits.spend(caller.key, turn.tokens)
                if appliance.tracing is not None:
                    appliance.tracing.chat(turn, scope["headers"])


async def replay(send: Send, row: Interaction, raw: bytes) -> None:
    """The stored answer again, the way it was asked for."""
    _, view = read_chat_body(raw)
    headers = encoded(replay_headers(row))
    if not view.stream:
        return await send_bytes(send, 200, orjson.dumps(completion_body(row)), headers)
    usage = bool(view.stream_options and view.stream_options.include_usage)
    events = whole_events(completion_body(row), usage=usage)
    await send(start_message(200, *EVENTS, *headers))
    await send({"type": "http.response.body", "body": events + DONE})
    return None


class Answer:
    """Sends one answer, and closes its row."""

    def __init__(self, appliance: Appliance, turn: Turn, send: Send) -> None:
        self.appliance, self.turn, self.send = appliance, turn, send
        self.started = False

    async def run(self) -> None:
        begun = time.monotonic()
        try:
            await (self._route() if self.turn.routed else speak(self.appliance, self.turn, self._emit))
            if self.turn.streamed:
                await self.send({"type": "http.response.body", "body": b""})
        except asyncio.CancelledError:
            self._close("cancelled", "The client went away, or serving was stopped.")
            raise
        except FlywheelError as error:
            closed = self._close("failed", str(error))
            if closed is not None:
                await asyncio.wait((closed,))
            await self._fail(error)
        finally:
            self._close("failed", "A defect inside Flywheel; its log says more.")
            self.turn.said = None  # it knows the turn: nobody but the garbage collector could end the two
            self.appliance.metrics.chat(self.turn, seconds=time.monotonic() - begun)
            if self.turn.target.shadow is not None:  # also where the client left with its whole answer before us
                self.appliance.shadows.ask(self.appliance, self.turn)

    async def _route(self) -> None:
        async for piece in routed_answer(self.appliance, self.turn):
            await self._emit(piece)

    def _emit(self, piece: bytes) -> Awaitable[None]:
        if self.turn.streamed:
            return self._stream(piece)
        return send_bytes(self.send, 200, piece, self.turn.headers())

    async def _stream(self, piece: bytes) -> None:
        if not self.started:
            await self._begin()
        await self.send({"type": "http.response.body", "body": piece, "more_body": True})

    async def _begin(self) -> None:
        """Start the stream, once the row is on disk that says it was asked."""
        opening = self.turn.opening
        if opening is not None and opening.future is not None:
            await asyncio.shield(opening.future)  # a heartbeat may wait for it as well
        if not self.started:
            self.started = True
            await self.send(start_message(200, *EVENTS, *self.turn.headers()))

    async def _fail(self, error: FlywheelError) -> None:
        status, answer, headers = error_of(error)
        if not self.started:
            return await send_bytes(self.send, status, orjson.dumps(answer), [*self.turn.headers(), *encoded(headers)])
        await self.send({"type": "http.response.body", "body": b"data: " + orjson.dumps(answer) + b"\n\n"})
        return None

    def _close(self, status: str, reason: str) -> asyncio.Future[None] | None:
        """Close the row, once; done when it is on disk. None where there is nothing to wait for."""
        opening, turn, closed = self.turn.opening, self.turn, self.appliance.closed
        if opening is None or turn.outcome is not None:
            return None
        turn.outcome, said = status, list[Choice]()
        with suppress(ValueError, TypeError):  # events that make no sense
            said = turn.said() if turn.said is not None else said
        asked, hopeless = opening.future, opening.failed
        ended = self.appliance.writer.end(opening, *turn.closed_writes(status, said, error=reason))
        for future in (asked, ended):
            if future is not None:
                future.add_done_callback(note_lost)
        ended.add_done_callback(lambda done: None if failed(done) else closed.append(Over.of(turn)))
        return None if hopeless else ended


async def read_body(receive: Receive, *, limit: int) -> bytes:
    """The request's whole body. Raises RequestError (413) as soon as it is too long."""
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body"):
        if len(body) > limit:
            break
        message = await receive()
        body += message.get("body", b"")
    if len(body) > limit:
        text = f"The body is longer than {limit} bytes (serving.max_body_bytes)."
        raise RequestError(text, status=413, code="request_too_large")
    return body


async def _until_gone(answer: Coroutine[None, None, None], scope: Scope, receive: Receive) -> None:
    """Run `answer` to its end, or cancel it when the client goes away."""
    ours = asyncio.current_task()
    assert ours is not None
    gone = False

    def leave() -> None:
        nonlocal gone
        gone = True
        ours.cancel()

    when_gone = teller(scope, receive)
    when_gone(leave)
    try:
        await answer
    except asyncio.CancelledError:
        if not gone or ours.uncancel():  # somebody else wants us to end as well
            raise
    finally:
        when_gone(None)
