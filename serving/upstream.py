"""HTTP/1.1 to one engine, over connections that are kept, at the least cost for each request.

It speaks what vLLM's server speaks and no more: one answer at a time on a connection, bodies with a length or chunked,
no redirects, no compression, no proxies. Leaving a reply before its end closes the connection, which is how an engine
learns that nobody listens any more. Every failure is an OSError or a TimeoutError; what it means is `engine.py`'s to
say.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
import time
from collections.abc import Mapping
from typing import cast
from urllib.parse import urlsplit

import httptools

CONNECT_SECONDS = 2.0
IDLE_SECONDS = 4.0
"""uvicorn, and so vLLM where it was not started by us, closes an idle connection after five."""
MOST_UNREAD = 1 << 20
"""Bytes that wait for a slow client before the engine is made to wait as well."""


class Upstream:
    """The connections to one engine. Use it on one event loop."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host, self._port = parts.hostname or "", parts.port or (443 if self._tls else 80)
        self._prefix = parts.path.rstrip("/")
        self._common = f" HTTP/1.1\r\nhost: {parts.netloc.rpartition('@')[2]}\r\ncontent-type: application/json\r\n"
        self._idle: list[Connection] = []

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        silence: float,
        within: float | None = None,
    ) -> Asked:
        """Send one request; inside the block the status is known and the body is still to be read.

        `silence` is how many seconds may pass without a byte, `within` how many the whole may take. Raises OSError
        when the connection fails, TimeoutError when it takes too long.
        """
        head = f"{method} {self._prefix}{path}{self._common}"
        for name, value in (headers or {}).items():
            head += f"{name}: {value}\r\n"
        head += f"content-length: {len(body)}\r\n\r\n"
        return Asked(self, head.encode("latin-1") + body, silence=silence, within=within)

    def give_back(self, connection: Connection) -> None:
        """Keep it for the next request, or close it when its answer was not read to the end."""
        if connection.reusable:
            connection.idle_since = time.monotonic()
            self._idle.append(connection)
        else:
            connection.abort()

    async def refuses(self) -> bool:
        """Whether a new connection is refused."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                transport, _ = await asyncio.get_running_loop().create_connection(
                    asyncio.Protocol, self._host, self._port
                )
        except TimeoutError:
            return False
        except OSError as error:  # of a host with several addresses: one error that names each of theirs
            return isinstance(error, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in str(error)
        transport.abort()
        return False

    def close(self) -> None:
        """Close what is idle."""
        for connection in self._idle:
            connection.abort()
        self._idle.clear()

    def kept(self) -> Connection | None:
        """A connection that waits idly."""
        while self._idle:
            connection = self._idle.pop()
            if connection.open and time.monotonic() - connection.idle_since < IDLE_SECONDS:
                return connection
            connection.abort()
        return None

    async def connected(self) -> Connection:
        """A new connection. Raises OSError."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await loop.create_connection(Connection, self._host, self._port, ssl=self._tls)
        except TimeoutError as error:
            raise ConnectionError(f"no connection within {CONNECT_SECONDS:.0f} s") from error
        return connection


class Asked:
    """One request and its answer: `async with`. A class, since a generator's set-up costs as much as the request."""

    __slots__ = ("_connection", "_request", "_silence", "_upstream", "_within")

    def __init__(self, upstream: Upstream, request: bytes, *, silence: float, within: float | None) -> None:
        self._upstream, self._request = upstream, request
        self._silence, self._within = silence, within
        self._connection: Connection | None = None

    async def __aenter__(self) -> Connection:
        connection = self._upstream.kept() or await self._upstream.connected()
        try:
            connection.send(self._request, silence=self._silence, within=self._within)
            await connection.answered()
        except BaseException:
            self._upstream.give_back(connection)
            raise
        self._connection = connection
        return connection

    async def __aexit__(self, *_: object) -> None:
        assert self._connection is not None
        self._upstream.give_back(self._connection)


class Connection(asyncio.Protocol):
    """One connection, and the answer that is under way on it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._unread: list[bytes] = []
        self._unread_bytes = 0
        self._paused = False
        self._complete, self._keep = True, False
        self._error: OSError | None = None
        self.open = False
        self.idle_since = 0.0
        self.status = 0
        """Of the answer; 0 until it is known."""

    def send(self, request: bytes, *, silence: float, within: float | None) -> None:
        """Begin one request."""
        self._complete, self.status, self._error = False, 0, None
        now = self._loop.time()
        self._heard, self._silence = now, silence
        self._deadline = now + within if within is not None else None
        self._look_at(min(now + silence, self._deadline or now + silence))
        if self._transport is not None:
            self._transport.write(request)

    async def answered(self) -> None:
        """Return once the status is known."""
        while not self.status:
            await self._news()

    async def more(self) -> bytes:
        """The bytes of the body that are there, after a wait if need be; empty at its end."""
        while not self._unread and not self._complete:
            await self._news()
        found = self._unread[0] if len(self._unread) == 1 else b"".join(self._unread)
        self._unread.clear()
        self._unread_bytes = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return found

    async def read(self) -> bytes:
        """The whole body."""
        parts = []
        while self._unread or not self._complete:
            parts.append(await self.more())
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @property
    def reusable(self) -> bool:
        """Whether the answer was read to its end and another may follow."""
        return self.open and self._complete and self._keep and not self._unread

    def abort(self) -> None:
        """Close it now; what was not sent yet is dropped."""
        self.open = False
        self._rest()
        if self._transport is not None:
            self._transport.abort()

    async def _news(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: OSError) -> None:
        if not self._complete and self._error is None:
            self._error = error
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_exception(error)

    def _look_at(self, due: float) -> None:
        """See to it that somebody looks then. A look that is due earlier goes on to it: most answers need no timer."""
        if self._watch is None or self._watch.when() > due:
            self._rest()
            self._watch = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        """Whether it has been silent, or has taken, too long."""
        self._watch = None
        now, due = self._loop.time(), self._heard + self._silence
        if self._paused:  # it is us who do not read
            due = now + self._silence
        if self._deadline is not None:
            due = min(due, self._deadline)
        if self._complete:
            return
        if now < due:
            self._look_at(due)
        else:
            self._fail(TimeoutError("it took too long"))
            self.abort()

    def _rest(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self.open = cast(asyncio.Transport, transport), True  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"it does not speak HTTP ({error})"))
            self.abort()
            return
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self._rest()
        self._fail(ConnectionError(str(exc) if exc else "it closed the connection"))

    # What the parser calls.

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._unread.append(body)
        self._unread_bytes += len(body)
        if self._unread_bytes > MOST_UNREAD and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        self._complete, self._keep = True, bool(self._parser.should_keep_alive())
