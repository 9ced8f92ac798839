"""Who calls, and what they may: every request's key is checked here, before any route sees it.

What a path needs stands in `RULES`; a path that no rule names needs `operate`, so a new route is closed until somebody
opens it. A key is read from the database again after half a second, which is how long a revoked one may go on.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import orjson
from sqlalchemy import Engine as Database
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flywheel.database import now, reading, writing
from flywheel.errors import AccessError, DatabaseTroubleError, FlywheelError, ForbiddenError, UnavailableError
from flywheel.keys import ApiKey, KeyCard, key_of, note_use, secret_hash
from flywheel.keys import Scope as KeyScope
from flywheel.settings import Settings
from serving.protocol import encoded, error_of, send_bytes

if TYPE_CHECKING:
    from serving.appliance import Appliance

Need = Literal["nothing", "chat", "review", "operate", "admin"]
RULES: tuple[tuple[str, str, Need], ...] = (
    ("GET", r"/healthz|/readyz|/openapi\.json", "nothing"),
    ("GET|POST", r"/rate/[^/]+", "nothing"),  # the signed link is the key
    (".*", r"/v1/(chat/completions|feedback|models|embeddings)(/.*)?|/v1/search|/v1/caller", "chat"),
    (".*", r"/v1/(reviews|judgments|pairs)(/.*)?", "review"),
    ("GET", r"/v1/interactions(/.*)?", "review"),
    (".*", r"/v1/keys(/.*)?", "admin"),
)
OWN_RECORDS = re.compile(r"/v1/(documents|audit|interactions|usage)(/.*)?", re.DOTALL)
"""What operators of any tenant have of their own. The adapters and all that makes them belong to the appliance's;
so does lineage, which shows the words of the pairs that shaped an adapter."""
METRICS = re.compile(r"/metrics(/engines/\d+)?")
FRESH_SECONDS = 0.5
USE_NOTED = timedelta(minutes=1)
MOST_KNOWN = 10_000
PATIENCE_SECONDS = 5.0
"""How long a request waits for its key to be read."""
NO_ANSWER = "API keys cannot be checked: the database does not answer. Try again in a moment."
NO_KEY = "This request carries no API key. Send `Authorization: Bearer sk-fw-…`; `flywheel keys create` makes one."
BAD_KEY = "This API key is not valid: unknown, ended or revoked. `flywheel keys create` makes a new one."

OTHER_TENANT = "Adapters and experiments are run by the appliance's own tenant; this key belongs to another one."


@dataclass(frozen=True)
class Caller:
    """Whose key a request carries. Without keys (`serving.require_keys = false`) everybody is the admin."""

    tenant: str
    scope: KeyScope = "admin"
    key: KeyCard | None = None


class KeyRing:
    """The keys as the database had them a moment ago."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, tuple[float, KeyCard | None]] = {}
        self._reading: dict[str, asyncio.Task[KeyCard | None]] = {}
        self._noting: dict[str, asyncio.Task[None]] = {}

    def fresh(self, hashed: str) -> KeyCard | None:
        """The key with this hash if it was read a moment ago."""
        read_at, key = self._known.get(hashed, (0.0, None))
        return key if time.monotonic() - read_at <= FRESH_SECONDS else None

    async def find(self, hashed: str) -> KeyCard | None:
        """The key with this hash. Raises UnavailableError when the database cannot be asked."""
        read_at, key = self._known.get(hashed, (0.0, None))
        if time.monotonic() - read_at > FRESH_SECONDS:
            reading_it = self._reading.get(hashed)  # many requests with one key wait for one reading
            if reading_it is None:
                reading_it = self._reading[hashed] = asyncio.create_task(self._refresh(hashed))
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    key = await asyncio.shield(reading_it)
            except TimeoutError:
                raise UnavailableError(NO_ANSWER) from None
        return key

    async def _refresh(self, hashed: str) -> KeyCard | None:
        try:
            key = await asyncio.to_thread(self._read, hashed)
        except (SQLAlchemyError, DatabaseTroubleError) as error:
            raise DatabaseTroubleError(NO_ANSWER) from error
        finally:
            del self._reading[hashed]
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        card = key.card() if key is not None else None
        self._known[hashed] = (time.monotonic(), card)
        if key is not None and card is not None and card.valid:
            self._note_use(key)
        return card

    def _read(self, hashed: str) -> ApiKey | None:
        with reading(self._database) as session:
            return key_of(session, hashed)

    def _note_use(self, key: ApiKey) -> None:
        """Once a minute, and beside the request: it may have to wait for the disk."""
        fresh = key.last_used_at is not None and now() - key.last_used_at <= USE_NOTED
        if fresh or key.id in self._noting:
            return
        task = self._noting[key.id] = asyncio.create_task(asyncio.to_thread(self._write_use, key.id))
        task.add_done_callback(lambda _: self._noting.pop(key.id))

    def _write_use(self, key_id: str) -> None:
        with suppress(DatabaseTroubleError), writing(self._database) as session:
            note_use(session, key_id)


class Access:
    """The layer that lets a request in, or answers it with 401 or 403."""

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            appliance: Appliance = scope["app"].appliance
            try:
                need = self._need(scope)
                if need == "nothing":
                    caller = Caller(self.settings.tenant)
                else:
                    keys, hashed = appliance.keys, hash_of(scope["headers"])
                    caller = self._caller(keys.fresh(hashed) or await keys.find(hashed), scope, need)
                scope.setdefault("state", {})["caller"] = caller
                left = appliance.limits.admit(caller.key) if caller.key is not None else {}
            except FlywheelError as error:
                status, body, headers = error_of(error, request_id=scope["request_id"])
                more = {"www-authenticate": "Bearer"} if status == 401 else {}
                return await send_bytes(send, status, orjson.dumps(body), encoded(headers | more))
            if left:
                send = with_headers(send, left)
        return await self.app(scope, receive, send)

    def _need(self, scope: Scope) -> Need:
        open_to_all = self.settings.serving.open_metrics and METRICS.fullmatch(scope["path"]) is not None
        if open_to_all or not self.settings.serving.require_keys:
            return "nothing"
        return needed(scope["method"], scope["path"])

    def _caller(self, key: KeyCard | None, scope: Scope, need: KeyScope) -> Caller:
        if key is None or not key.valid:
            raise AccessError(BAD_KEY)
        if not key.allows(need):
            raise ForbiddenError(f"This key's scope is {key.scope}; {scope['method']} {scope['path']} needs {need}.")
        if key.tenant != self.settings.tenant and need == "operate" and not OWN_RECORDS.fullmatch(scope["path"]):
            raise ForbiddenError(OTHER_TENANT)
        return Caller(key.tenant, key.scope, key)


def with_headers(send: Send, more: dict[str, str]) -> Send:
    """`send`, whose answer tells these as well."""

    def sending(message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            message["headers"] += encoded(more)
        return send(message)

    return sending


@lru_cache(maxsize=1024)
def needed(method: str, path: str) -> Need:
    """The scope that a request needs."""
    found = (
        need for methods, paths, need in RULES if re.fullmatch(methods, method) and re.fullmatch(paths, path, re.DOTALL)
    )
    return next(found, "operate")


def hash_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The hash of the key that a request carries, as OpenAI's clients send it. Raises AccessError (401) for none."""
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            secret = value[7:].decode("latin-1").strip()
            if secret:
                return secret_hash(secret)
    raise AccessError(NO_KEY)
