"""Idempotency-Key: the same key and body get the stored answer, or wait for the one that is being made.

The key stands in the asked row, so a restart forgets nothing. A row that was never answered, or kept without its words,
gives its key back: the request is then made anew. A key is refused at once for another body.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sqlalchemy import Engine as Database
from sqlmodel import select

from flywheel.database import writing
from flywheel.interactions import KEPT, OPEN, Interaction
from serving.protocol import UNDER_WAY, RequestError

LONGEST_KEY = 255
HEADER = b"idempotency-key"


@dataclass(frozen=True)
class Claim:
    """A client's idempotency key, and the hash of the body it came with."""

    key: str
    body_hash: str


@dataclass
class Running:
    """The requests under one key: the first is being answered, the others wait."""

    body_hash: str
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Idempotency:
    """The keys under way in this process, and the rows that hold keys."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._running: dict[tuple[str, str], Running] = {}

    @asynccontextmanager
    async def claim(self, tenant: str, key: str, raw: bytes) -> AsyncIterator[tuple[Claim, Interaction | None]]:
        """Holds the key for the length of the block, and gives the finished row of the same request if there is one.

        Raises RequestError: 400 for a key that is too long, 422 for one that was used with another body.
        """
        if not 0 < len(key) <= LONGEST_KEY:
            raise RequestError(f"Idempotency-Key has 1 to {LONGEST_KEY} characters.", code="invalid_idempotency_key")
        claim = Claim(key, hashlib.sha256(raw).hexdigest())
        running = self._running.setdefault((tenant, key), Running(claim.body_hash))
        _refuse_another(running.body_hash, claim)
        running.users += 1
        try:
            async with running.lock:
                yield claim, await asyncio.to_thread(self._earlier, tenant, claim)
        finally:
            running.users -= 1
            if not running.users:
                del self._running[tenant, key]

    def _earlier(self, tenant: str, claim: Claim) -> Interaction | None:
        with writing(self._database) as session:
            query = select(Interaction).where(Interaction.tenant == tenant, Interaction.idempotency_key == claim.key)
            row = session.exec(query).first()
            if row is None:
                return None
            _refuse_another(row.body_hash, claim)
            if row.status == "finished" and row.content == KEPT:
                return row
            if row.status != OPEN:
                row.idempotency_key = None
                session.add(row)
                return None
        raise RequestError("The first request with this key is still under way.", status=409, code=UNDER_WAY)


def _refuse_another(body_hash: str | None, claim: Claim) -> None:
    if body_hash != claim.body_hash:
        text = "This Idempotency-Key was used with another body. Use a new key for a new request."
        raise RequestError(text, status=422, code="idempotency_key_reused")
