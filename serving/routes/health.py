"""/healthz, /readyz and /metrics: for whatever watches over the process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, Response
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from flywheel.database import reading
from flywheel.errors import DatabaseTroubleError, NotFoundError
from serving.appliance import Appliance, appliance_of

router = APIRouter(tags=["health"])
PATIENCE_SECONDS = 2.0
"""How long /readyz waits for a part."""
EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"
Holder = Annotated[Appliance, Depends(appliance_of)]


@router.get("/healthz")
async def alive() -> dict[str, str]:
    """The process answers."""
    return {"status": "alive"}


@router.get("/readyz")
async def ready(appliance: Holder) -> JSONResponse:
    """Whether a routed chat would be answered now, part by part."""
    parts = {
        "database": await _soon(_database, appliance),
        "engine": await _engine(appliance),
        "vector_store": await _soon(_vector_store, appliance),
        "live_adapter": _live_adapter(appliance),
        "writer": _writer(appliance),
    }
    whole = all(part["ready"] for part in parts.values())
    return JSONResponse({"ready": whole, "parts": parts}, 200 if whole else 503)


@router.get("/metrics")
async def figures(appliance: Holder) -> Response:
    """For Prometheus."""
    return Response(appliance.metrics.exposition(), media_type=EXPOSITION)


@router.get("/metrics/engines/{number}")
async def figures_of_engine(number: int, appliance: Holder) -> Response:
    """vLLM's own figures; nobody but serving reaches an engine. They are numbered as in `engine.urls`, from 0."""
    engines = appliance.engines.engines
    if not 0 <= number < len(engines):
        raise NotFoundError(f"There is no engine {number}: engine.urls names {len(engines)}, the first is 0.")
    return Response(await engines[number].metrics(), media_type=EXPOSITION)


async def _soon(part: Callable[[Appliance], dict[str, Any]], appliance: Appliance) -> dict[str, Any]:
    """What a part says of itself, or that it hangs. One that hangs is not asked again: each look takes a thread."""
    look = appliance.looks.get(part.__name__)
    if look is None or look.done():
        look = appliance.looks[part.__name__] = asyncio.create_task(asyncio.to_thread(part, appliance))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await asyncio.shield(look)
    except TimeoutError:
        return _part(False, f"does not answer within {PATIENCE_SECONDS:g} seconds")


def _part(ready: bool, detail: str) -> dict[str, Any]:
    return {"ready": ready, "detail": detail}


def _database(appliance: Appliance) -> dict[str, Any]:
    try:
        with reading(appliance.database) as session:
            session.execute(text("SELECT 1"))
    except (SQLAlchemyError, DatabaseTroubleError) as error:
        return _part(False, str(error).splitlines()[0])
    return _part(True, appliance.database.dialect.name)


async def _engine(appliance: Appliance) -> dict[str, Any]:
    merged = appliance.live.merged_in_service()
    engines = appliance.engines.merged if merged else appliance.engines.engines
    alive = await asyncio.gather(*(engine.healthy() for engine in engines))
    silent = [engine.url for engine, answers in zip(engines, alive, strict=True) if not answers]
    detail = f"{sum(alive)} of {len(engines)} answer" + (f"; silent: {', '.join(silent)}" if silent else "")
    return _part(any(alive), detail)


def _vector_store(appliance: Appliance) -> dict[str, Any]:
    library = appliance.library
    if library is None:
        return _part(False, appliance.shelves.trouble)
    return _part(library.healthy(), f"{len(library.documents())} documents, index {library.index_version}")


def _live_adapter(appliance: Appliance) -> dict[str, Any]:
    standing = appliance.live.standing
    if standing.champion is None:
        return _part(False, "no adapter is live yet")
    waits = appliance.live.not_ready(standing.champion)
    return _part(not waits, "; ".join(waits) or standing.champion)


def _writer(appliance: Appliance) -> dict[str, Any]:
    writer = appliance.writer
    return _part(not writer.behind, f"{writer.waiting} of {writer.limit} waiting")
