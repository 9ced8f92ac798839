"""The connections to an engine: kept, given up, cut, silent. The server here sends exactly the bytes a test wants."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

import pytest
import uvloop

from serving.upstream import IDLE_SECONDS, MOST_UNREAD, Upstream
from tests.conftest import free_port

WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
Say = Callable[[asyncio.StreamWriter, bytes], Awaitable[None]]


class Scripted:
    """Reads a request, says what it is told to say, and goes on to the next one on the same connection."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.connections = 0
        self.serving: list[asyncio.Task[None]] = []
        self.left = asyncio.Event()
        self.requests: list[bytes] = []

    async def __aenter__(self) -> Upstream:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.upstream = Upstream(f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}")
        return self.upstream

    async def __aexit__(self, *_: object) -> None:
        self.upstream.close()
        self.server.close()
        for serving in self.serving:
            serving.cancel()
        await asyncio.gather(*self.serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.serving.append(cast(asyncio.Task[None], asyncio.current_task()))
        try:
            await self._converse(reader, writer)
        finally:
            self.left.set()
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(
                    head + await reader.readexactly(int(head.split(b"content-length: ")[1].split()[0]))
                )
                await self.say(writer, head)
                if writer.is_closing():
                    break


async def whole(writer: asyncio.StreamWriter, _request: bytes) -> None:
    writer.write(WHOLE)


async def asked(upstream: Upstream, **limits: Any) -> tuple[int, bytes]:
    async with upstream.ask("POST", "/x", b'{"a": 1}', {"x-request-id": "r1"}, **{"silence": 5.0} | limits) as answer:
        return answer.status, await answer.read()


def run(say: Say, test: Callable[[Upstream, Scripted], Awaitable[None]]) -> None:
    async def inside() -> None:
        server = Scripted(say)
        async with server as upstream:
            await asyncio.wait_for(test(upstream, server), 30)

    for loop in (asyncio.new_event_loop, uvloop.new_event_loop):
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(inside())


def test_connection_is_kept_between_requests_and_each_at_once_has_its_own() -> None:
    async def test(upstream: Upstream, server: Scripted) -> None:
        for _ in range(3):
            assert await asked(upstream) == (200, b"hi")
        assert server.connections == 1
        assert server.requests[0].startswith(b"POST /x HTTP/1.1\r\nhost: 127.0.0.1:")
        assert server.requests[0].endswith(b'x-request-id: r1\r\ncontent-length: 8\r\n\r\n{"a": 1}')
        await asyncio.gather(*(asked(upstream) for _ in range(5)))
        assert server.connections == 5

    run(whole, test)


def test_leaving_early_closes_the_connection() -> None:
    async def endless(writer: asyncio.StreamWriter, _request: bytes) -> None:
        writer.write(CHUNKED)
        while not writer.is_closing():
            writer.write(b"1\r\nx\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    async def test(upstream: Upstream, server: Scripted) -> None:
        async with upstream.ask("POST", "/x", silence=5) as answer:
            assert await answer.more()
        await asyncio.wait_for(server.left.wait(), 1)

    run(endless, test)


def test_connection_closed_or_grown_old_while_idle_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def once(writer: asyncio.StreamWriter, _request: bytes) -> None:
        writer.write(WHOLE)
        writer.close()

    async def closed(upstream: Upstream, server: Scripted) -> None:
        await asked(upstream)
        await asyncio.sleep(0.05)
        assert await asked(upstream) == (200, b"hi")
        assert server.connections == 2

    async def old(upstream: Upstream, server: Scripted) -> None:
        await asked(upstream)
        later = time.monotonic() + IDLE_SECONDS
        monkeypatch.setattr("serving.upstream.time.monotonic", lambda: later)
        await asked(upstream)
        assert server.connections == 2

    run(once, closed)
    run(whole, old)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"", "it closed the connection"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi", "it closed the connection"),
        (CHUNKED + b"2\r\nhi\r\n", "it closed the connection"),
        (b"SMTP ready\r\n", "it does not speak HTTP"),
        (CHUNKED + b"zz\r\n", "it does not speak HTTP"),
    ],
)
def test_answers_that_break_off_are_errors(said: bytes, error: str) -> None:
    async def broken(writer: asyncio.StreamWriter, _request: bytes) -> None:
        writer.write(said)
        writer.close()

    async def test(upstream: Upstream, _server: Scripted) -> None:
        with pytest.raises(ConnectionError, match=error):
            await asked(upstream)

    run(broken, test)


def test_what_came_before_the_break_can_still_be_read() -> None:
    async def broken(writer: asyncio.StreamWriter, _request: bytes) -> None:
        writer.write(CHUNKED + b"2\r\nhi\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.close()

    async def test(upstream: Upstream, _server: Scripted) -> None:
        async with upstream.ask("POST", "/x", silence=5) as answer:
            await asyncio.sleep(0.2)
            assert await answer.more() == b"hi"
            with pytest.raises(ConnectionError):
                await answer.more()

    run(broken, test)


def test_silence_and_a_whole_that_takes_too_long_end_in_time() -> None:
    async def trickle(writer: asyncio.StreamWriter, request: bytes) -> None:
        if b"silent" in request:
            return
        writer.write(CHUNKED)
        while not writer.is_closing():
            writer.write(b"1\r\nx\r\n")
            await asyncio.sleep(0.02)

    async def test(upstream: Upstream, _server: Scripted) -> None:
        for path, within in (("/silent", None), ("/x", 0.4)):
            begun = time.perf_counter()
            with pytest.raises(TimeoutError):
                async with upstream.ask("POST", path, silence=0.2, within=within) as answer:
                    await answer.read()
            assert 0.15 < time.perf_counter() - begun < 2

    run(trickle, test)


def test_patience_of_one_request_is_not_that_of_the_next_on_the_same_connection() -> None:
    async def once(writer: asyncio.StreamWriter, request: bytes) -> None:
        if b"silent" not in request:
            await whole(writer, request)

    async def test(upstream: Upstream, server: Scripted) -> None:
        for limits in ({"silence": 0.3, "within": None}, {"silence": 60.0, "within": 0.3}):
            await asked(upstream, silence=60.0)
            begun = time.perf_counter()
            with pytest.raises(TimeoutError):
                async with upstream.ask("POST", "/silent", **limits):
                    pass
            assert 0.25 < time.perf_counter() - begun < 2
        assert server.connections == 2
        await asked(upstream, silence=0.2)
        await asyncio.sleep(0.4)  # idle, and nobody waits for anything
        await asked(upstream)
        assert server.connections == 3

    run(once, test)


def test_engine_waits_for_a_client_that_does_not_read() -> None:
    sent = 0

    async def flood(writer: asyncio.StreamWriter, _request: bytes) -> None:
        nonlocal sent
        writer.write(CHUNKED)
        piece = b"x" * 65536
        for _ in range(1000):
            writer.write(b"10000\r\n" + piece + b"\r\n")
            await writer.drain()
            sent += len(piece)
        writer.write(b"0\r\n\r\n")

    async def test(upstream: Upstream, _server: Scripted) -> None:
        before = sent
        async with upstream.ask("POST", "/x", silence=0.2) as answer:
            await asyncio.sleep(0.6)
            assert MOST_UNREAD <= sent - before < 20 * MOST_UNREAD  # what the kernel's buffers hold comes on top
            assert len(await answer.read()) == 65536000  # and the silence was ours, not the engine's

    run(flood, test)


def test_port_that_nobody_listens_on() -> None:
    async def test() -> None:
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await asked(Upstream(f"http://127.0.0.1:{free_port()}"))

    asyncio.run(test())
