"""Ends of rows that could not be written because the database was in trouble: they are written after it.

Invariants: kept is the last word on each row, of rows that may be on disk; what was at fault itself is not tried again.
They are bounded, and gone with the process: the next start closes as interrupted what they would have ended.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

from flywheel.errors import DatabaseTroubleError, FlywheelError
from serving.submission import Submission

QUIET_SECONDS = 1.0
"""How long after the last trouble they are tried again."""


class Unended:
    """What the writer could not end. For its thread alone."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._ends: dict[str, Submission] = {}
        self._trouble_at = 0.0
        """Monotonic."""

    @property
    def wait(self) -> float | None:
        """Seconds after which to look again; none when nothing is left."""
        return QUIET_SECONDS if self._ends else None

    def hear(self, group: list[Submission], error: FlywheelError | None) -> None:
        """What became of a group."""
        trouble = isinstance(error, DatabaseTroubleError)
        if trouble:
            self._trouble_at = time.monotonic()
        for submission in group if trouble or self._ends else ():
            row = submission.ends
            if row is None:
                continue
            self._ends.pop(row, None)
            if trouble and len(self._ends) < self._limit:
                self._ends[row] = submission

    def groups(self, size: int, *, last: bool) -> Iterator[list[Submission]]:
        """What is to be tried now; with `last` however fresh the trouble is. The first comes alone: should the trouble
        go on, no others follow."""
        if last:
            self._trouble_at = 0.0
        left, most = deque(self._ends.values()) if self._quiet else deque(), 1
        while left and self._quiet:
            yield [left.popleft() for _ in range(min(most, len(left)))]
            most = size

    @property
    def _quiet(self) -> bool:
        return time.monotonic() - self._trouble_at > QUIET_SECONDS
