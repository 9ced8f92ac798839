"""Appliance: everything serving holds while it runs. Opened and closed by the app's lifespan, passed to whoever needs
it; a route gets it as its caller's tenant sees it.

The embedding model, the library and the router take seconds to load, so they come in a thread after the port is open:
until then routed requests are told to come back (503), and plain ones are answered.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy
from fastapi import Request
from langgraph.graph.state import CompiledStateGraph

from flywheel.errors import UnavailableError, UserError
from flywheel.keys import LOCAL
from flywheel.settings import Settings
from rag.embedding import Embedder
from rag.library import Library, open_library
from serving.access import Caller, KeyRing
from serving.conversations import Conversations, Over
from serving.engine import EnginePool
from serving.idempotency import Idempotency
from serving.limits import KeyLimits
from serving.live import LiveAliases
from serving.metrics import Metrics
from serving.router import Router
from serving.shadow import Shadows
from serving.writer import RecordWriter

if TYPE_CHECKING:
    from serving.tracing import Tracing


CLOSED_KEPT = 100_000


@dataclass
class Shelves:
    """What answers are grounded in: a library for each tenant, and the router, which all share."""

    embedder: Embedder | None = None
    router: Router | None = None
    libraries: dict[str, Library] = field(default_factory=dict)
    opening: threading.Lock = field(default_factory=threading.Lock)
    trouble: str = "the embedding model is still loading"


@dataclass
class Appliance:
    settings: Settings
    database: sqlalchemy.Engine
    writer: RecordWriter
    engines: EnginePool
    live: LiveAliases
    metrics: Metrics
    agent: CompiledStateGraph[Any, Any, Any, Any]
    idempotency: Idempotency
    keys: KeyRing
    limits: KeyLimits
    shadows: Shadows
    tracing: Tracing | None
    tenant: str
    """Whose records are meant: the appliance's own, or the caller's (`seen_by`)."""
    caller: Caller | None = None
    conversations: Conversations | None = None
    """None where several servings share the records."""
    closed: deque[Over] = field(default_factory=lambda: deque(maxlen=CLOSED_KEPT))
    """Turns that requests have closed, for serving/signals.py."""
    shelves: Shelves = field(default_factory=Shelves)
    looks: dict[str, asyncio.Task[dict[str, Any]]] = field(default_factory=dict)
    """The last look of /readyz at each part."""

    @property
    def library(self) -> Library | None:
        """The tenant's documents, once they and the router are there."""
        return self.shelves.libraries.get(self.tenant) if self.shelves.embedder is not None else None

    def seen_by(self, caller: Caller) -> Appliance:
        """The same, for the caller and their tenant."""
        seen = object.__new__(Appliance)  # what copy() does, without asking how to
        seen.__dict__ |= self.__dict__ | {"tenant": caller.tenant, "caller": caller}
        return seen

    def acting(self, claimed: str, *, otherwise: str = "") -> str:
        """Who acts, for the records. A key vouches for its own name alone: of another name that a program with a
        shared key gives, the key's own stands behind it in brackets. Raises UserError when nobody is named."""
        key = self.caller.key if self.caller is not None else None
        claimed = claimed.strip()
        if key is None or key.name == LOCAL:
            if not (claimed or otherwise):
                raise UserError("actor: say who acts.")
            return claimed or otherwise
        return key.name if claimed in ("", key.name) else f"{claimed} ({key.name})"

    def ready_library(self) -> Library:
        """The tenant's documents; blocks to open them the first time. Raises UnavailableError while nothing can be."""
        if self.shelves.embedder is None:
            raise UnavailableError(f"Documents are not ready: {self.shelves.trouble}. Try again in a moment.")
        return self.library or self._open_library(self.shelves.embedder)

    def ready_router(self) -> Router:
        """The intent router. Raises UnavailableError while it is still being fitted."""
        if self.shelves.router is None:
            raise UnavailableError(f"Routing is not ready: {self.shelves.trouble}. Try again in a moment.")
        return self.shelves.router

    def load_library(self) -> None:
        """Open the library and fit the router. Blocks for seconds; a person's error is kept for /readyz."""
        rag, shelves = self.settings.rag, self.shelves
        try:
            embedder = Embedder(rag.embedding_model)
            library = self._open_library(embedder)
        except Exception as error:
            shelves.trouble = str(error)
            raise
        shelves.router = Router(library, model_name=rag.embedding_model, top_k=rag.top_k)
        shelves.embedder = embedder

    def _open_library(self, embedder: Embedder) -> Library:
        rag, libraries = self.settings.rag, self.shelves.libraries
        with self.shelves.opening:
            if self.tenant not in libraries:
                libraries[self.tenant] = open_library(
                    chroma_url=rag.chroma_url,
                    folder=self.settings.home.resolve() / "chroma",
                    name=f"{rag.collection}.{self.tenant}",
                    embedder=embedder,
                    chunk_words=rag.chunk_words,
                )
            return libraries[self.tenant]


def appliance_of(request: Request) -> Appliance:
    """For the routes' signatures: `Annotated[Appliance, Depends(appliance_of)]`."""
    found: Appliance = request.app.appliance
    return found.seen_by(request.state.caller)
