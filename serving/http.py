"""uvicorn's HTTP/1.1, cheaper for chats in two places.

One write to the socket for what an answer says in one go: its head and its body, or a last event and the stream's end.
Each write is a system call, and wakes the client. And whoever answers can be called when the client goes away, where
ASGI would have them wait for a message in a task of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep an idle connection (httpx: 5 s), so that no request meets one that is being closed."""
LAST_ANSWERS_SECONDS = 15
"""`flywheel up` kills what is left after 20 seconds."""
Tell = Callable[[Callable[[], None] | None], None]
"""Takes what to call when the client has gone away, or None when all is said."""
WHEN_GONE = "flywheel.when_gone"
"""The ASGI extension; its `tell` is a Tell."""


def server_config(app: ASGIApp) -> uvicorn.Config:
    """How serving is served."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        loop="uvloop",
        http=ClientConnection,
        lifespan="on",
        server_header=False,
        proxy_headers=False,  # the app has a layer that reads them, which chats do not pass
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=LAST_ANSWERS_SECONDS,
    )


def teller(scope: Scope, receive: Receive) -> Tell:
    """The connection's own way to tell that its client is gone; for a server that is not ours a task that listens."""
    extension = scope.get("extensions", {}).get(WHEN_GONE)
    return extension["tell"] if extension else Listener(receive)


class ClientConnection(HttpToolsProtocol):
    """One client's connection."""

    _lost = False
    _gone: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Joined(transport, self.loop))  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._lost = True
        if self._gone is not None:
            self._gone()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {WHEN_GONE: {"tell": self.when_gone}}

    def when_gone(self, call: Callable[[], None] | None) -> None:
        """`call`, now if they are gone already."""
        self._gone = call
        if call is not None and self._lost:
            call()


class Listener:
    """Calls back when the client has gone away, over ASGI alone: for servers that are not ours."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._listening: asyncio.Task[None] | None = None

    def __call__(self, call: Callable[[], None] | None) -> None:
        if call is not None:
            self._listening = asyncio.create_task(self._listen(call))
        elif self._listening is not None:
            self._listening.cancel()

    async def _listen(self, call: Callable[[], None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        call()


class Joined:
    """A transport that sends what was written once whoever writes lets the event loop go on."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._parts: list[bytes] = []
        self.is_closing = transport.is_closing  # asked for each answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._send)
        self._parts.append(data)

    def close(self) -> None:
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._parts:
            data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts.clear()
            self._transport.write(data)
