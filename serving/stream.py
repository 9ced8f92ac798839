"""From the engine's answer to the client's, byte for byte where nothing is ours to change.

Invariants: the asked row is committed before the first byte leaves, the finished row before the last event or the
body's end; both may be one. While the disk is in trouble or short of space the asked row is committed before the engine
is called. Success means a finish reason and no error in between: anything else raises, and what was relayed so far
stays in `Relay.choices()` for the row. Once an engine answers, no other is asked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from typing import Any

import orjson

from flywheel.database import now
from flywheel.errors import FlywheelError, UnavailableError
from flywheel.interactions import Choice
from serving.appliance import Appliance
from serving.choices import StreamedChoices, whole_choices, words_of
from serving.citations import mark_cited, url_citations
from serving.conversations import Over
from serving.engine import Engine, EnginePool, LostAdapterError, LostEngineError, error_name, error_text, read_json
from serving.heartbeat import Heartbeat
from serving.protocol import RequestError
from serving.stored import whole_events
from serving.turn import Turn
from serving.upstream import Connection

log = logging.getLogger(__name__)
Emit = Callable[[bytes], Awaitable[None]]
COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
DONE = b"data: [DONE]\n\n"
SAVE_SECONDS = 0.5
"""How often the words so far are kept, so that a row which a crash leaves open has all but the last of them."""


def plain(events: bytes) -> bool:
    """Whether we need not look into them: no end, no usage, no error. Inside a JSON string the quotes were escaped."""
    return not (
        b'"finish_reason":"' in events
        or b'"choices":[]' in events
        or b'data: {"error"' in events
        or b"data: [DONE]" in events
    )


class Relay:
    """The events of one streamed answer: renames the speaker, keeps them for the record, holds back what is not
    theirs."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.done = False
        self.error: str | None = None
        self.finish_reason: str | None = None
        self.usage: dict[str, Any] = {}
        self._kept = StreamedChoices()
        self._rest = b""
        self._engines_name = b'"model":' + orjson.dumps(turn.target.adapter)
        self._our_name = (
            b'"model":'
            + orjson.dumps(turn.target.alias)
            + b',"system_fingerprint":'
            + orjson.dumps(turn.target.adapter)
        )

    def feed(self, data: bytes) -> bytes:
        """The bytes that may go to the client now: whole events only."""
        data = self._rest + data
        cut = data.rfind(b"\n\n") + 2
        if cut < 2:
            self._rest = data
            return b""
        self._rest = data[cut:]
        events = data[:cut].replace(self._engines_name, self._our_name)
        self._kept.keep(events)
        if plain(events):
            return events
        return b"".join(self._inspect(event) for event in events.split(b"\n\n") if event)

    def _inspect(self, event: bytes) -> bytes:
        payload = event.removeprefix(b"data: ")
        if payload == b"[DONE]":
            self.done = True
            return b""
        if plain(event):
            return event + b"\n\n"
        chunk = orjson.loads(payload)
        if "error" in chunk:
            self.error = error_text(chunk)
            return b""
        if not chunk["choices"]:
            self.usage = chunk.get("usage") or {}
            chunk["system_fingerprint"] = self.turn.target.adapter
            return b"data: " + orjson.dumps(chunk) + b"\n\n" if self.turn.wants_usage else b""
        return self._finish(event, chunk)

    def _finish(self, event: bytes, chunk: dict[str, Any]) -> bytes:
        choice = chunk["choices"][0]
        if choice.get("index") == 0:
            self.finish_reason = choice["finish_reason"]
        found = self._citations(choice.get("index", 0)) if self.turn.passages else []
        if not found:
            return event + b"\n\n"
        choice["delta"]["annotations"] = found
        return b"data: " + orjson.dumps(chunk) + b"\n\n"

    def _citations(self, index: int) -> list[dict[str, Any]]:
        return url_citations(self.turn.passages, words_of(self.choices(), index))

    def choices(self) -> list[Choice]:
        """What was relayed so far."""
        return self._kept.so_far()


async def speak(appliance: Appliance, turn: Turn, emit: Emit) -> None:
    """Ask the live adapter and emit its answer. Raises UnavailableError or RequestError; the caller closes the row."""
    engine = appliance.engines.engine_for(turn.target.adapter)
    # A key says that somebody may ask the same elsewhere; and an engine is not asked what the record may not hold.
    surely = turn.claim is not None or not appliance.writer.steady
    turn.opening = appliance.writer.open(turn.asked_write(), hurried=surely or turn.streamed)
    if turn.known and appliance.conversations is not None:
        turn.before = appliance.conversations.follow(turn.tenant, turn.conversation, turn.completion_id)
    if surely and turn.opening.future is not None:
        await asyncio.shield(turn.opening.future)
    if turn.target.beside is not None:
        return await _both(appliance, turn, emit)
    try:
        return await _ask(appliance, turn, engine, emit)
    except LostEngineError as lost:
        return await _ask(appliance, turn, _next_to_ask(appliance.engines, engine, turn.target.adapter, lost), emit)


def _next_to_ask(pool: EnginePool, engine: Engine, adapter: str, lost: LostEngineError) -> Engine:
    """A replica whose connection fails, or that has lost the adapter, is passed over once for another one that is
    ready. Where there is no other the connection is tried once more: an idle one may just have been closed."""
    other = pool.instead_of(engine, adapter)
    if other is None and isinstance(lost, LostAdapterError):
        raise lost
    return other or engine


async def _both(appliance: Appliance, turn: Turn, emit: Emit) -> None:
    """One answer of each variant, as two choices; a stream gets them once both are there."""
    seeded = appliance.settings.engine.seeds
    bodies = turn.whole_body(seeded=seeded), turn.other_body(seeded=seeded)
    with appliance.live.speaking(bodies[1]["model"]), Heartbeat(emit) if turn.streamed else nullcontext():
        asked = (_one_of_two(appliance, turn, body, place=place) for place, body in enumerate(bodies))
        first, second = await asyncio.gather(*asked)
    choices = [answer["choices"][0] | {"index": place} for place, answer in enumerate((first, second))]
    usage = {name: sum((answer.get("usage") or {}).get(name) or 0 for answer in (first, second)) for name in COUNTS}
    whole = first | {"id": turn.completion_id, "choices": choices, "usage": usage}
    await _tell(appliance, turn, whole, emit)


async def _one_of_two(appliance: Appliance, turn: Turn, body: dict[str, Any], *, place: int) -> dict[str, Any]:
    pool, adapter, request_id = appliance.engines, body["model"], f"{turn.handle}-{place}"
    engine = pool.engine_for(adapter)
    try:
        return await _whole(engine, body, request_id)
    except LostEngineError as lost:
        return await _whole(_next_to_ask(pool, engine, adapter, lost), body, request_id)


async def _whole(engine: Engine, body: dict[str, Any], request_id: str) -> dict[str, Any]:
    async with engine.stream(body, request_id=request_id) as response:
        raw = await _until_lost(response.read())
        if response.status != 200:
            raise refusal(response.status, raw)
    answer: dict[str, Any] = orjson.loads(raw)
    return answer


async def _ask(appliance: Appliance, turn: Turn, engine: Engine, emit: Emit) -> None:
    body = turn.engine_body(seeded=appliance.settings.engine.seeds)
    async with engine.stream(body, request_id=turn.handle) as response:
        if response.status != 200:
            raise refusal(response.status, await response.read())
        if turn.streamed:
            return await _relay(appliance, turn, response, emit)
        raw = await _until_lost(response.read())
    return await _tell(appliance, turn, orjson.loads(raw), emit)


async def _until_lost(coming: Awaitable[bytes]) -> bytes:
    """What comes before the client was told anything: another replica may be asked should this one die now."""
    try:
        return await coming
    except TimeoutError:  # a busy engine, not a lost one
        raise
    except OSError as error:
        raise LostEngineError(f"The engine died before its first word ({error_name(error)}). Try again.") from error


async def _relay(appliance: Appliance, turn: Turn, response: Connection, emit: Emit) -> None:
    relay = Relay(turn)
    turn.said = relay.choices
    saved = time.monotonic()
    with Heartbeat(emit) as beat:
        data = await _until_lost(response.more())
        while data:
            turn.first_token_at = turn.first_token_at or now()
            ready = relay.feed(data)
            if ready:
                beat.at = time.monotonic()
                await emit(ready)
            if turn.kept and time.monotonic() - saved > SAVE_SECONDS:
                saved = time.monotonic()
                _save(appliance, turn, relay)
            data = await response.more()
    if relay.error is not None:
        raise UnavailableError(f"The engine failed in the middle of the answer: {relay.error}.")
    if not relay.done or relay.finish_reason is None:
        raise UnavailableError("The engine broke off in the middle of the answer.")
    await _finish(appliance, turn, relay.choices(), relay.usage)
    await emit(DONE)


def _save(appliance: Appliance, turn: Turn, relay: Relay) -> None:
    """Keep the words so far, unless the writer has enough to do: the whole answer comes later anyway."""
    with suppress(UnavailableError):
        appliance.writer.submit(turn.partial_write(relay.choices())).add_done_callback(note_lost)


def failed(future: asyncio.Future[None]) -> bool:
    """Whether it ended with anything but success."""
    return future.cancelled() or future.exception() is not None


def note_lost(future: asyncio.Future[None]) -> None:
    """For writes that nobody waits for."""
    if not future.cancelled() and (error := future.exception()) is not None:
        log.error("a row could not be written: %s", error)


async def _tell(appliance: Appliance, turn: Turn, answer: dict[str, Any], emit: Emit) -> None:
    """An answer that came in one piece, as the client wants it."""
    answer["model"], answer["system_fingerprint"] = turn.target.alias, turn.target.adapter
    for choice in answer["choices"]:
        if turn.passages:
            choice["message"]["annotations"] = url_citations(turn.passages, choice["message"].get("content") or "")
    await _finish(appliance, turn, whole_choices(answer), answer.get("usage") or {})
    if turn.routed:
        answer["passages"] = [found.model_dump() for found in turn.passages]
    await emit(whole_events(answer, usage=turn.wants_usage) + DONE if turn.streamed else orjson.dumps(answer))


async def _finish(appliance: Appliance, turn: Turn, choices: list[Choice], usage: dict[str, Any]) -> None:
    if turn.passages:
        turn.passages = mark_cited(turn.passages, words_of(choices))
    tokens = {name: usage.get(name) for name in COUNTS[:2]}
    writes = turn.closed_writes("finished", choices, **tokens)
    assert turn.opening is not None, "nobody answers what was not asked"
    ended = appliance.writer.end(turn.opening, *writes, final=False)
    asked = turn.opening.future
    if asked is not None and asked is not ended:
        ended.add_done_callback(note_lost)  # should the first of the two fail
        await asyncio.shield(asked)  # a heartbeat may wait for it as well
    await ended
    turn.outcome = "finished"
    appliance.closed.append(Over.of(turn))


def refusal(status: int, raw: bytes) -> FlywheelError:
    """The engine's refusal as ours: what the caller can mend stays theirs, everything else is for a later try."""
    answer = read_json(raw)
    if status in (400, 422):
        error = answer.get("error")
        return RequestError(error_text(answer), param=error.get("param") if isinstance(error, dict) else None)
    kind = LostAdapterError if status == 404 else UnavailableError  # 404: it has lost the adapter
    return kind(f"The engine did not answer ({status}): {error_text(answer)}.")
