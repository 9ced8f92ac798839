"""The FastAPI app: its lifespan opens and closes the appliance, and every route is included here."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import sqlalchemy
from fastapi import FastAPI
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from flywheel.errors import FlywheelError
from flywheel.settings import Settings
from serving.access import Access, KeyRing
from serving.appliance import Appliance
from serving.chat import ChatCompletions
from serving.conversations import Conversations
from serving.description import DESCRIPTION
from serving.engine import Engine, EnginePool
from serving.graph import build_agent
from serving.idempotency import Idempotency
from serving.limits import KeyLimits
from serving.live import LiveAliases
from serving.logs import RequestLines
from serving.metrics import Metrics
from serving.protocol import install_error_handlers
from serving.reconcile import reconcile_forever, watch_engines
from serving.records import several_servings
from serving.request_layer import RequestLayer
from serving.routes import (
    adapters,
    audit,
    completions,
    datasets,
    documents,
    embeddings,
    experiments,
    feedback,
    health,
    interactions,
    keys,
    lineage,
    merges,
    models,
    promotions,
    prompts,
    rating_links,
    reviews,
    runs,
    status,
    usage,
)
from serving.shadow import Shadows
from serving.signals import watch_signals
from serving.webhooks import send_webhooks
from serving.writer import RecordWriter

if TYPE_CHECKING:
    from serving.tracing import Tracing

CHAT = (completions, models, embeddings, feedback, rating_links, interactions, documents, health)
TURN = (reviews, datasets, runs, adapters, prompts, experiments, promotions, merges, lineage)
BESIDE = (audit, keys, status, usage)
CHATS = "/v1/chat/completions"
ROUTERS = (*CHAT, *TURN, *BESIDE)
log = logging.getLogger(__name__)
GARBAGE = 10_000
"""New objects before the youngest are looked through; Python's 700 come and go with two or three chats."""


class Api(FastAPI):
    """The framework, and past it the chats: its layers and its router have nothing to add to them."""

    chats: ASGIApp
    """Their endpoint behind the layers of ours that every route has."""
    appliance: Appliance
    """While it runs. Not in `state`, whose attributes cost an exception each time."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == CHATS and scope["method"] == "POST":
            scope["app"] = self
            return await self.chats(scope, receive, send)
        return await super().__call__(scope, receive, send)


def build_app(settings: Settings, database: sqlalchemy.Engine) -> FastAPI:
    """The API on these settings and records (`open_records`); engines and documents are opened when it starts."""

    lines = RequestLines()

    @asynccontextmanager
    async def lifespan(app: Api) -> AsyncIterator[None]:
        try:
            async with open_appliance(settings, database) as appliance:
                app.appliance = appliance
                yield
        finally:
            lines.say()

    app = Api(title="Flywheel", version="0.1.0", lifespan=lifespan)
    app.chats = RequestLayer(Access(ChatCompletions(), settings=settings), lines=lines)
    # What is left for the framework: the path in its list, and 405 for another method.
    app.router.routes.append(Route(CHATS, ChatCompletions(), methods=["POST"]))
    for module in ROUTERS:
        app.include_router(module.router)
    app.add_middleware(Access, settings=settings)
    app.add_middleware(RequestLayer, lines=lines)
    app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1,::1"))
    install_error_handlers(app)
    _describe_chats(app)
    return app


def _describe_chats(app: FastAPI) -> None:
    """The raw endpoint in the API's own description, which knows decorated routes only."""
    decorated = app.openapi

    def described() -> dict[str, Any]:
        whole = decorated()
        whole["paths"].setdefault(CHATS, {})["post"] = DESCRIPTION
        return whole

    app.openapi = described  # type: ignore[method-assign]


@asynccontextmanager
async def open_appliance(settings: Settings, database: sqlalchemy.Engine) -> AsyncIterator[Appliance]:
    """Everything that runs beside the routes: the writer's thread, the reconcile loop, the loading of the library."""
    writer = RecordWriter(database, limit=settings.serving.writer_queue)
    writer.start()
    limits = KeyLimits()
    engines = EnginePool(
        [Engine(url) for url in settings.engine.urls], merged=[Engine(url) for url in settings.engine.merged_urls]
    )
    appliance = Appliance(
        settings=settings,
        database=database,
        writer=writer,
        engines=engines,
        live=LiveAliases(settings, database, engines),
        metrics=Metrics(writer, limits, engines),
        agent=build_agent(),
        idempotency=Idempotency(database),
        keys=KeyRing(database),
        limits=limits,
        shadows=Shadows(at_once=settings.serving.shadow_at_once),
        tracing=_open_tracing(settings),
        tenant=settings.tenant,
        conversations=None if several_servings(database) else Conversations(),
    )
    if appliance.conversations is not None:
        appliance.closed.extend(await asyncio.to_thread(appliance.conversations.read, database))
    beside = (reconcile_forever, watch_engines, watch_signals, send_webhooks)
    loops = [asyncio.create_task(run(appliance)) for run in beside]
    threading.Thread(target=_load_library, args=(appliance,), name="library", daemon=True).start()
    try:
        yield appliance
    finally:
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        await appliance.shadows.close()
        engines.close()
        await asyncio.to_thread(writer.close)
        if appliance.tracing is not None:
            await asyncio.to_thread(appliance.tracing.close)
    database.dispose()


def _open_tracing(settings: Settings) -> Tracing | None:
    if settings.serving.otlp_endpoint is None:
        return None
    from serving.tracing import open_tracing  # noqa: PLC0415  half a second, for those who asked for it

    return open_tracing(settings.serving.otlp_endpoint)


def _load_library(appliance: Appliance) -> None:
    try:
        appliance.load_library()
    except FlywheelError as error:
        log.error("%s", error)
    gc.collect()
    gc.freeze()  # what is loaded now stays: it need not be looked through for garbage again and again
    gc.set_threshold(GARBAGE)
