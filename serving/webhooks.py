"""Tells receivers of verdicts and decisions, in order, at least once, as in Standard Webhooks (standardwebhooks.com).

Each receiver is served apart, from the audit entry after the last that it took (2xx). What it refuses is tried again,
ever more seldom, for three days, also over restarts; then that one event is given up and the next one follows. An event
sent twice has the same `webhook-id`. Nothing here is waited for by a decision. Of several servings on one database only
the one that leads sends.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
from sqlalchemy import Engine as Database
from sqlalchemy.exc import SQLAlchemyError

from flywheel.audit import AuditEntry
from flywheel.database import now, reading, reason_of, writing
from flywheel.errors import DatabaseTroubleError
from flywheel.webhook_address import secret_bytes
from flywheel.webhooks import WebhookReceiver, entries_after, event_of, new_receiver, url_hash
from serving.appliance import Appliance

LOOK_SECONDS = 1.0
TIMEOUT_SECONDS = 15.0
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 2.0, 1800.0
GIVEN_UP_AFTER = timedelta(days=3)
BATCH = 100
log = logging.getLogger(__name__)


async def send_webhooks(appliance: Appliance) -> None:
    """Until cancelled, or at once where nobody is to be told."""
    settings = appliance.settings
    secret = settings.webhooks.secret
    key = secret_bytes(secret.get_secret_value()) if secret is not None else None
    async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS) as http:
        urls = dict.fromkeys(settings.webhooks.urls)
        outlets = [Outlet(url, key, appliance.database, settings.tenant, http) for url in urls]
        leadership = appliance.live.leadership
        await asyncio.gather(*(outlet.send_forever(lambda: leadership.held) for outlet in outlets))


class Outlet:
    """One receiver, and how it took what it was sent last."""

    def __init__(self, url: str, key: bytes | None, database: Database, tenant: str, http: httpx.AsyncClient) -> None:
        self.url, self.key, self.database, self.tenant, self.http = url, key, database, tenant, http
        self.host = urlsplit(url).hostname
        """All of the address that is ever logged: the rest may hold a token."""
        self.refused = 0

    async def send_forever(self, leads: Callable[[], bool]) -> None:
        """What has happened, then what happens, while it is ours to tell."""
        while True:
            try:
                if leads():
                    await self.send_waiting()
            except (SQLAlchemyError, DatabaseTroubleError) as error:
                log.error("webhooks to %s wait for the database: %s", self.host, reason_of(error))
            wait = FIRST_WAIT_SECONDS * 2 ** min(self.refused - 1, 20)
            await asyncio.sleep(min(wait, LONGEST_WAIT_SECONDS) if self.refused else LOOK_SECONDS)

    async def send_waiting(self) -> None:
        """Everything since the last time, up to the first that is refused."""
        receiver, entries = await asyncio.to_thread(self._read)
        for entry in entries:
            event = event_of(entry, tenant=self.tenant)
            trouble = await self._post(entry, event) if event is not None else None
            failing_since = (receiver.failing_since or now()) if trouble else None
            if failing_since is None:
                self.refused = 0
            elif now() - failing_since < GIVEN_UP_AFTER:
                self.refused += 1
                log.warning("webhook %s to %s is tried again later: %s", entry.act, self.host, trouble)
                return await asyncio.to_thread(self._keep, receiver.position, failing_since)
            else:
                log.error("webhook %s to %s is given up (audit position %d)", entry.act, self.host, entry.position)
                self.refused = 0
            receiver.position, receiver.failing_since = entry.position, None
            if event is not None or entry is entries[-1]:
                await asyncio.to_thread(self._keep, entry.position, None)
        return None

    async def _post(self, entry: AuditEntry, event: dict[str, Any]) -> str | None:
        """Send one event. Returns what went wrong."""
        headers, body = signed(event, event_id=f"evt_{entry.hash[:32]}", key=self.key)
        try:
            async with self.http.stream(
                "POST", self.url, content=body, headers=headers
            ) as answer:  # its body is unread
                return None if answer.is_success else f"answered with {answer.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return type(error).__name__

    def _read(self) -> tuple[WebhookReceiver, list[AuditEntry]]:
        with reading(self.database) as session:
            found = session.get(WebhookReceiver, url_hash(self.url))
            if found is not None:
                return found, entries_after(session, found.position, limit=BATCH)
        with writing(self.database) as session:
            return new_receiver(session, self.url), []

    def _keep(self, position: int, failing_since: datetime | None) -> None:
        with writing(self.database) as session:
            row = session.get_one(WebhookReceiver, url_hash(self.url))
            row.position, row.failing_since = position, failing_since


def signed(event: dict[str, Any], *, event_id: str, key: bytes | None) -> tuple[dict[str, str], bytes]:
    """Headers and body of one request, signed where there is a key."""
    body, at = orjson.dumps(event), str(int(time.time()))
    headers = {"content-type": "application/json", "webhook-id": event_id, "webhook-timestamp": at}
    if key is not None:
        digest = hmac.new(key, b".".join((event_id.encode(), at.encode(), body)), hashlib.sha256).digest()
        headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return headers, body
