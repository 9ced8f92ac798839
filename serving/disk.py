"""Whether the disk has room for the record. Not covered: a network file system that hangs, as asking it does."""

from __future__ import annotations

import os
import time
from pathlib import Path

from sqlalchemy import Engine

SCARCE_BYTES = 32 << 20
"""Less free space than this, and a row is awaited before its engine is asked."""
LOOK_SECONDS = 0.25
"""How old the last look at the free space may be."""


class Disk:
    """Where a SQLite file lies, and whether there is room; a database server's disk is its own to watch."""

    def __init__(self, database: Engine) -> None:
        file = database.url.database if database.dialect.name == "sqlite" else None
        self._folder = Path(file).resolve().parent if file and file != ":memory:" else None
        self._looked_at, self._roomy = 0.0, True

    @property
    def roomy(self) -> bool:
        """Whether there was room a moment ago."""
        if self._folder is not None and time.monotonic() - self._looked_at > LOOK_SECONDS:
            self._looked_at = time.monotonic()
            try:
                found = os.statvfs(self._folder)
            except OSError:  # it is gone: whoever writes there will say so
                self._roomy = False
            else:
                self._roomy = found.f_bavail * found.f_frsize > SCARCE_BYTES
        return self._roomy
