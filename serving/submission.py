"""What is handed to the record's writer, and how whoever waits hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from flywheel.errors import DatabaseTroubleError, FlywheelError
from serving.statements import Write


class DoubtError(DatabaseTroubleError):
    """The connection broke in a commit: whether it is on disk is not known."""


class Opening:
    """A row that was opened and will be ended."""

    __slots__ = ("ended", "future", "row", "write")

    def __init__(self, write: Write) -> None:
        self.write = write
        self.row: str = write.values["id"]
        self.ended = False
        self.future: asyncio.Future[None] | None = None
        """Done once the row is on disk; none while it is put off."""

    @property
    def failed(self) -> bool:
        """Whether it is known that the row is not there."""
        future = self.future
        if future is None or not future.done() or future.cancelled():
            return False
        return not isinstance(future.exception(), DoubtError | None)


class Submission(NamedTuple):
    """Writes that are kept together or not at all."""

    writes: Sequence[Write]
    future: asyncio.Future[None]
    loop: asyncio.AbstractEventLoop
    ends: str | None = None
    """The row on disk that the first of them ends, if it is the last word on it."""


def settle(group: list[Submission], error: FlywheelError | None) -> None:
    """Tell the waiting coroutines, one wake-up for each event loop."""
    for loop, submissions in groupby(group, key=lambda submission: submission.loop):
        futures = [submission.future for submission in submissions]
        if not loop.is_closed():
            loop.call_soon_threadsafe(_resolve, futures, error)


def _resolve(futures: list[asyncio.Future[None]], error: FlywheelError | None) -> None:
    for future in futures:
        if future.done():  # the request was cancelled while its row was on the way; the row stands
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
