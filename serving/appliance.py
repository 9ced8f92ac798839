"""Appliance: everything serving holds while it runs. Opened and closed by the app's lifespan, passed to whoever needs
it.

The embedding model, the library and the router take seconds to load, so they come in a thread after the port is open:
until then routed requests are told to come back (503), and plain ones are answered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy
from fastapi import Request
from langgraph.graph.state import CompiledStateGraph

from flywheel.errors import UnavailableError
from flywheel.settings import Settings
from rag.embedding import Embedder
from rag.library import Library, open_library
from serving.engine import EnginePool
from serving.idempotency import Idempotency
from serving.live import LiveAliases
from serving.metrics import Metrics
from serving.router import Router
from serving.writer import RecordWriter


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
    library: Library | None = None
    router: Router | None = None
    library_trouble: str = "the embedding model is still loading"

    def ready_library(self) -> Library:
        """The documents. Raises UnavailableError while they are still being opened, or when they cannot be."""
        if self.library is None:
            raise UnavailableError(f"Documents are not ready: {self.library_trouble}. Try again in a moment.")
        return self.library

    def ready_router(self) -> Router:
        """The intent router. Raises UnavailableError while it is still being fitted."""
        if self.router is None:
            raise UnavailableError(f"Routing is not ready: {self.library_trouble}. Try again in a moment.")
        return self.router

    def load_library(self) -> None:
        """Open the library and fit the router. Blocks for seconds; a person's error is kept for /readyz."""
        rag = self.settings.rag
        try:
            library = open_library(
                chroma_url=rag.chroma_url,
                folder=self.settings.home.resolve() / "chroma",
                name=f"{rag.collection}.{self.settings.tenant}",
                embedder=Embedder(rag.embedding_model),
                chunk_words=rag.chunk_words,
            )
        except Exception as error:
            self.library_trouble = str(error)
            raise
        self.router = Router(library, model_name=rag.embedding_model, top_k=rag.top_k)
        self.library = library


def appliance_of(request: Request) -> Appliance:
    """For the routes' signatures: `Annotated[Appliance, Depends(appliance_of)]`."""
    found: Appliance = request.app.state.appliance
    return found
