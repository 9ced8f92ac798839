"""Leadership: of all servings that share a database, the one that changes the engines. The others observe.

The leader loads and unloads adapters, publishes the identity adapter, and looks at the experiment. It holds the lease
`engines` and asks for it anew before each change; when it dies, another serving has the lease after `LEASE_SECONDS`.
A clean stop lets go of it at once.

Not covered: a leader whose whole machine stands still between asking and acting. What it may then do late is repeatable
(a load) or concerns what nobody has wanted for long (an unload).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time

from sqlalchemy import Engine as Database
from sqlalchemy.exc import SQLAlchemyError

from flywheel.database import new_id, reason_of, writing
from flywheel.errors import DatabaseTroubleError
from flywheel.leases import ENGINES, SERVING, release_lease, take_lease
from flywheel.settings import Settings

log = logging.getLogger(__name__)

LEASE_SECONDS = 5.0
LIFE_SECONDS = 60.0
"""Without a sign of life after which a serving counts as dead, and its open rows are closed. Longer than a busy machine
may keep it from giving one: a row that was closed so is not changed again."""


def life_lease(settings: Settings) -> str:
    """The name of the lease that says that a serving lives: of who has the port, since two cannot have it.

    Not covered: two machines of one name, and a successor that takes the port while its predecessor, told to stop,
    still finishes its last answers.
    """
    return f"{SERVING}{socket.gethostname()}:{settings.serving.port}"


class Leadership:
    """This serving's claim to lead."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.holder = new_id("serving")
        self._life = life_lease(settings) if settings.serving.port else SERVING + self.holder
        self._database = database
        self._seconds = max(LEASE_SECONDS, 2.5 * settings.serving.reconcile_seconds)
        self._until = 0.0
        self._closed = False
        self._one_at_a_time = threading.Lock()

    @property
    def held(self) -> bool:
        """Whether it leads, by the last answer of the database."""
        return time.monotonic() < self._until

    async def renewed(self) -> bool:
        """Whether it leads now, and a sign of life; asks the database when half of the lease is over."""
        if self._until - time.monotonic() > self._seconds / 2:
            return True
        return await asyncio.to_thread(self._renew)

    def _renew(self) -> bool:
        with self._one_at_a_time:
            if self._closed:
                return False
            led, asked = self.held, time.monotonic()
            try:
                with writing(self._database) as session:
                    take_lease(session, name=self._life, holder=self.holder, seconds=LIFE_SECONDS)
                    leads = take_lease(session, name=ENGINES, holder=self.holder, seconds=self._seconds)
            except (SQLAlchemyError, DatabaseTroubleError) as error:
                log.warning("leadership: the lease cannot be renewed: %s", reason_of(error))  # nobody else can, either
                return self.held
            self._until = asked + self._seconds if leads else 0.0
        if led != leads:
            log.info("leadership: %s %s", self.holder, "leads" if leads else "observes")
        return leads

    def close(self) -> None:
        """Let go, for good."""
        with self._one_at_a_time:
            self._closed, self._until = True, 0.0
            with writing(self._database) as session:
                for name in (ENGINES, self._life):
                    release_lease(session, name=name, holder=self.holder)
