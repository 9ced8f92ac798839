"""Comments on a slow stream, so that proxies do not cut its connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from flywheel.errors import UnavailableError

SECONDS = 15.0
COMMENT = b": keep-alive\n\n"


class Heartbeat:
    """Inside the block, sends a comment whenever nothing was sent for a while: tell `at` when something was.

    A timer and no task, since most streams are over before it is due.
    """

    def __init__(self, emit: Callable[[bytes], Awaitable[None]]) -> None:
        self.at = time.monotonic()
        self._emit = emit
        self._loop = asyncio.get_running_loop()
        self._sending: asyncio.Future[None] | None = None

    def __enter__(self) -> Heartbeat:
        self._due = self._loop.call_later(SECONDS, self._look)
        return self

    def __exit__(self, *_: object) -> None:
        self._due.cancel()
        if self._sending is not None:
            self._sending.cancel()

    def _look(self) -> None:
        left = self.at + SECONDS - time.monotonic()
        if left <= 0:
            self.at, left = time.monotonic(), SECONDS
            if self._sending is None or self._sending.done():  # else the client does not take the last one
                self._sending = asyncio.ensure_future(self._comment())
        self._due = self._loop.call_later(left, self._look)

    async def _comment(self) -> None:
        with suppress(UnavailableError):  # the row is not on disk: whoever streams is told the same
            await self._emit(COMMENT)
