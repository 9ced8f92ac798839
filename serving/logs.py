"""One line of JSON for each request and each event, on stderr: who, what, how long; never contents, never keys.

The requests of a tenth of a second are one record of the log, since a record costs more than a line of it.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TextIO

import orjson

log = logging.getLogger("serving.requests")
LINES = "lines"
GATHER_SECONDS = 0.1
logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # no line tells them
logging._srcfile = None  # nor who called; the logging module's own advice ("Optimization")


class JsonLines(logging.Formatter):
    """A record as one JSON object, or as one for each of its `lines`, which say their own time."""

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {"time": record.created, "level": record.levelname.lower(), "logger": record.name}
        said["message"] = record.getMessage()
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        lines: list[dict[str, Any]] = getattr(record, LINES, None) or [{}]
        return "\n".join([_as_json({**said, **line}) for line in lines])


def _as_json(line: dict[str, Any]) -> str:
    whole, part = divmod(line["time"], 1)
    line["time"] = f"{_second(whole)}.{int(1000 * part):03}+00:00"
    return orjson.dumps(line, default=str).decode()


@lru_cache(maxsize=8)
def _second(since_1970: float) -> str:
    """Many lines are of one second."""
    return datetime.fromtimestamp(since_1970, UTC).isoformat()[:19]


class Gathered(logging.StreamHandler[TextIO]):
    """Writes the lines of a tenth of a second at once, since each write lets other threads cut in; warnings at once,
    and whatever is said outside an event loop. A kill loses the lines of that time."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.setFormatter(JsonLines())
        self._soon: asyncio.TimerHandle | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.stream.write(self.format(record) + "\n")
        except Exception:  # noqa: BLE001  what cannot be said must not end a request
            return self.handleError(record)
        loop = None
        if record.levelno < logging.WARNING:
            with suppress(RuntimeError):
                loop = asyncio.get_running_loop()
        if loop is None:
            self.flush()
        elif self._soon is None:
            self._soon = loop.call_later(GATHER_SECONDS, self.flush)
        return None

    def flush(self) -> None:
        self._soon = None
        with suppress(OSError):  # a full disk: the lines wait, and no request fails of it
            super().flush()


class RequestLines:
    """The requests that are still to be logged."""

    def __init__(self) -> None:
        self._waiting: list[dict[str, Any]] = []

    def add(self, line: dict[str, Any]) -> None:
        """Log it within a tenth of a second. Call it on the event loop."""
        if not self._waiting:
            asyncio.get_running_loop().call_later(GATHER_SECONDS, self.say)
        self._waiting.append(line)

    def say(self) -> None:
        """Log what waits."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            log.info("request", extra={LINES: waiting})
