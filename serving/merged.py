"""Engines that hold the champion merged into the base weights: into service, and out of it again.

Merged weights answer for the champion alone, under its name, and before the engines with adapters. They come into
service when they answer the probes as the adapter does, and go out of it as soon as an experiment, a rollback or an
operator calls for adapters and an engine with adapters is there to go on. The record (`flywheel/merges.py`) hears of
both, and `flywheel up` starts and stops engines by it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import datetime
from typing import TYPE_CHECKING

from flywheel.database import now, writing
from flywheel.errors import UnavailableError, UserError
from flywheel.merges import FAILED, SERVING, WRITTEN, MergeStanding, merged_folder, move_merge, note_serving
from serving.engine import Engine
from serving.fingerprint import warm_and_check

if TYPE_CHECKING:
    from serving.appliance import Appliance

log = logging.getLogger(__name__)


async def reconcile_merged(appliance: Appliance, *, drain_seconds: float) -> None:
    """One tick over the engines for merged weights; the serving that leads keeps the record. Can be repeated."""
    pool, live = appliance.engines, appliance.live
    merge = live.standing.merge
    if merge is None or not pool.merged or merge.state not in (WRITTEN, SERVING):
        return _out_of_service(appliance)
    if merge.adapter != live.standing.champion or not (merge.applies or _alone(appliance)):
        _out_of_service(appliance)
    else:
        try:
            await asyncio.gather(*(_look_at(appliance, engine, merge.adapter) for engine in pool.merged))
        except UserError as error:  # other weights than the adapter's, or damaged ones
            _out_of_service(appliance)
            return await _keep(appliance, merge, FAILED, str(error))
    in_service = [engine for engine in pool.merged if pool.ready_for(engine)]
    if in_service:
        live.merged_until = time.monotonic()
    if merge.state == WRITTEN and len(in_service) == len(pool.merged):
        return await _keep(appliance, merge, SERVING)
    if merge.state == SERVING and merge.applies and in_service and merge.serving_since is None:
        await _note(appliance, merge, now())  # from this moment engines with adapters stand by
    if merge.state == SERVING and not merge.applies and merge.serving_since is not None:
        await _note(appliance, merge, None)
    if merge.state == SERVING and not merge.applies and time.monotonic() - live.merged_until >= drain_seconds:
        return await _keep(appliance, merge, WRITTEN)
    return None


def _alone(appliance: Appliance) -> bool:
    """Whether no engine with adapters could answer for the champion."""
    pool, champion = appliance.engines, appliance.live.standing.champion
    return not any(champion in pool.ready_for(engine) for engine in pool.engines)


def _out_of_service(appliance: Appliance) -> None:
    for engine in appliance.engines.merged:
        appliance.engines.mark(engine, ())


async def _look_at(appliance: Appliance, engine: Engine, adapter: str) -> None:
    """Mark it ready, or not. Raises UserError when it is not this adapter that answers."""
    pool = appliance.engines
    expected = (adapter, str(merged_folder(appliance.settings, adapter)))
    try:
        if await engine.own_model() != expected:
            return pool.mark(engine, ())
        if adapter not in pool.ready_for(engine):
            await warm_and_check(appliance.database, engine, adapter, record=False)
            log.info("reconcile: merged weights of %s answer on %s", adapter, engine.url)
        return pool.mark(engine, (adapter,))
    except UnavailableError:
        return pool.mark(engine, ())


async def _note(appliance: Appliance, merge: MergeStanding, since: datetime | None) -> None:
    def note() -> None:
        with writing(appliance.database) as session:
            note_serving(session, merge.id, since=since)

    if await appliance.live.leadership.renewed():
        await asyncio.to_thread(note)


async def _keep(appliance: Appliance, merge: MergeStanding, state: str, trouble: str | None = None) -> None:
    if not await appliance.live.leadership.renewed():
        return
    await asyncio.to_thread(_move, appliance, merge, state, trouble)
    log.info("reconcile: the merge of %s is %s%s", merge.adapter, state, f": {trouble}" if trouble else "")


def _move(appliance: Appliance, merge: MergeStanding, state: str, trouble: str | None) -> None:
    with writing(appliance.database) as session:
        move_merge(session, merge.id, expected=merge.state, state=state, trouble=trouble)
