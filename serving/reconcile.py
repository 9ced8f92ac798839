"""Makes the engines match the database, at boot and every few seconds.

For each replica: alive? which adapters does it hold, loaded from which folder? Then, for each wanted adapter that it is
not ready for: verify the files → load → warm → compare the fingerprint → mark ready. Every step can be repeated, so
dying between two of them costs a tick, nothing else. Between the ticks `watch_engines` takes an engine that died out
of service.

With several servings all mark for themselves what is ready, and only the one that leads (`serving/leadership.py`)
loads and unloads. What is wanted no longer loses its mark in one tick; it is unloaded after nobody has wanted it for
`DRAIN_SECONDS`, when every serving has long read the same from the database and what it had sent before has reached
the engine (vLLM finishes a request whose adapter is unloaded meanwhile). A new leader counts that time from its own
start.

Invariants: an engine is asked to load only files that `verify_adapter` has passed; it answers from none that were
loaded from elsewhere than this appliance's own folder (files that vanish under an engine kill it); no more than
`engine.max_loras` adapters are wanted, and it never holds more than `engine.max_cpu_loras`, those that drain included,
through us. An adapter is marked ready only after it gave the log-probabilities that were recorded when it was made. A
replica that forgot its adapters (it restarted) is not ready until they are back.

Not covered: starting or restarting engines (`flywheel up`), and two appliances with one set of engines.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sqlalchemy import Engine as Database

from flywheel.adapter_files import publish_adapter, verify_adapter
from flywheel.adapters import Adapter, identity_adapter
from flywheel.database import now, writing
from flywheel.errors import FlywheelError, UnavailableError, UserError
from flywheel.identity_adapter import write_identity_adapter
from flywheel.settings import Settings
from serving.engine import Engine
from serving.evidence import look_at_running
from serving.fingerprint import warm_and_check
from serving.live import BaseModel
from serving.merged import reconcile_merged
from serving.records import close_after_the_dead
from serving.watch import Watch

if TYPE_CHECKING:
    from serving.appliance import Appliance

log = logging.getLogger(__name__)

REST_SECONDS = 15.0
"""How long an adapter that failed its checks is left alone on that engine."""
DRAIN_SECONDS = 30.0
"""How long an adapter stays loaded that nobody wants any more; or ten ticks, where those take longer."""
LOOK_SHARE = 20
"""A look at a large experiment takes its time; the next one waits this many times as long."""
MISSES = 2
"""Ticks in a row without an answer after which an engine is out of service: one may just be a busy machine."""
WATCH_SECONDS = 0.4
"""How often it is tried whether an engine's port still takes connections. One that refuses is dead, not busy."""


async def reconcile_forever(appliance: Appliance) -> None:
    """Reconcile and, as the leader, look at the running experiment until cancelled; then let another one lead."""
    try:
        await _reconcile_and_look(appliance)
    finally:
        await asyncio.to_thread(appliance.live.leadership.close)


async def _reconcile_and_look(appliance: Appliance) -> None:
    settings, live = appliance.settings.serving, appliance.live
    next_look = time.monotonic()
    while True:
        try:
            await reconcile_once(appliance)
            if live.leadership.held and time.monotonic() >= next_look:
                begun = time.monotonic()
                if await asyncio.to_thread(look_at_running, appliance.database, alias=settings.alias):
                    await live.refresh()  # the experiment was stopped
                took = time.monotonic() - begun
                next_look = time.monotonic() + max(settings.look_seconds, LOOK_SHARE * took)
        except Exception as error:  # noqa: BLE001  one bad tick must not end the loop
            log.warning("reconcile: %s: %s", type(error).__name__, error)
        with suppress(TimeoutError):
            await asyncio.wait_for(live.engine_is_back.wait(), settings.reconcile_seconds)
        live.engine_is_back.clear()


async def watch_engines(appliance: Appliance) -> None:
    """Take engines whose port refuses connections out of service, and have those that are back looked at, until
    cancelled."""
    await asyncio.gather(*(_watch_engine(appliance, engine) for engine in appliance.engines.all))


async def _watch_engine(appliance: Appliance, engine: Engine) -> None:
    dead = False
    while True:
        if engine in appliance.engines.engines or appliance.live.standing.merge is not None:
            was_dead, dead = dead, await engine.refuses()
            if dead:
                _take_out(appliance, engine)
            elif was_dead:
                appliance.live.engine_is_back.set()
        await asyncio.sleep(WATCH_SECONDS)


async def reconcile_once(appliance: Appliance) -> None:
    """One tick over all engines; the leader first closes what dead servings left open.

    Trouble with one engine or adapter is noted and leaves the others alone.
    """
    live = appliance.live
    await live.refresh()
    leads, identity = await live.leadership.renewed(), live.standing.identity
    if leads:
        await asyncio.to_thread(close_after_the_dead, appliance.database)
    lost = not (identity and (appliance.settings.adapters_folder / identity).is_dir())
    if leads and lost and live.base_model is not None:
        await asyncio.to_thread(publish_identity, appliance.database, appliance.settings, live.base_model)
        await live.refresh()
    ticks = [_reconcile_engine(appliance, engine) for engine in appliance.engines.engines]
    for outcome in await asyncio.gather(*ticks, return_exceptions=True):
        if outcome is not None:
            raise outcome
    await reconcile_merged(appliance, drain_seconds=drain_seconds(appliance))


def publish_identity(database: Database, settings: Settings, base_model: BaseModel) -> str:
    """Make sure that the identity adapter of this base model exists, files and record; returns its name."""
    with TemporaryDirectory() as scratch:
        write_identity_adapter(base_model.folder, Path(scratch))
        manifest = {"base_model_hash": base_model.hash, "parent": None, "recipe": None, "run_id": None, "dataset": None}
        name = publish_adapter(
            Path(scratch), adapters_folder=settings.adapters_folder, kind="identity", manifest=manifest
        )
    whole = verify_adapter(
        settings.adapters_folder / name,
        base_model_hash=base_model.hash,
        max_rank=settings.engine.max_lora_rank,
        shapes=base_model.shapes,
    )
    with writing(database) as session:
        if identity_adapter(session, base_model_hash=base_model.hash) is None:
            session.add(
                Adapter(
                    name=name,
                    content_hash=whole["content_hash"],
                    base_model_hash=base_model.hash,
                    manifest=whole,
                    created_at=now(),
                )
            )
    return name


async def _reconcile_engine(appliance: Appliance, engine: Engine) -> None:
    pool, live = appliance.engines, appliance.live
    watch = live.watches[engine.url]
    held = await _held(engine)
    if held is None:
        watch.misses = MISSES if await engine.refuses() else watch.misses + 1
        if watch.misses >= MISSES:
            _take_out(appliance, engine)
        return
    watch.misses = 0
    _note(watch, engine, "", None)
    wanted, folder = live.wanted(), appliance.settings.adapters_folder
    ours = {name for name, root in held.items() if root == str(folder / name)}
    pool.mark(engine, pool.ready_for(engine) & ours & set(wanted))
    for name in set(watch.troubles) - {"", *wanted}:
        _note(watch, engine, name, None)
    for name in _drained(appliance, watch, set(held) - set(wanted), ours=ours):
        await _unload(appliance, engine, name, held=held)
    for name in wanted:
        if name not in pool.ready_for(engine) and watch.rest_until.get(name, 0) <= time.monotonic():
            await _make_ready(appliance, engine, name, held=held)


async def _held(engine: Engine) -> dict[str, str] | None:
    """The adapters an engine holds, and the folders they were loaded from; None when it does not answer."""
    try:
        return await engine.loaded() if await engine.healthy() else None
    except UnavailableError:
        return None


def _take_out(appliance: Appliance, engine: Engine) -> None:
    watch = appliance.live.watches[engine.url]
    appliance.engines.mark(engine, set())
    watch.misses = MISSES
    watch.rest_until.clear()  # it will come back empty, and deserves a fresh try
    rests = appliance.live.merged_in_service() and engine not in appliance.engines.merged
    _note(watch, engine, "", "does not answer" + (" (merged weights do)" if rests else ""))


def _drained(appliance: Appliance, watch: Watch, unwanted: set[str], *, ours: set[str]) -> list[str]:
    """What may be unloaded now."""
    moment = time.monotonic()
    watch.unwanted_since = {name: watch.unwanted_since.get(name, moment) for name in unwanted}
    drain = drain_seconds(appliance)
    return sorted(
        name
        for name, since in watch.unwanted_since.items()
        if name not in ours or (moment - since >= drain and appliance.live.in_flight(name) == 0)
    )


def drain_seconds(appliance: Appliance) -> float:
    """How long what is out of service may still be answering."""
    return max(DRAIN_SECONDS, 10 * appliance.settings.serving.reconcile_seconds)


async def _unload(appliance: Appliance, engine: Engine, name: str, *, held: dict[str, str]) -> None:
    if not await appliance.live.leadership.renewed():
        return
    try:
        await engine.unload(name)
    except UnavailableError as error:
        _note(appliance.live.watches[engine.url], engine, name, str(error))
        return
    del held[name]
    log.info("reconcile: unloaded %s from %s", name, engine.url)


async def _make_ready(appliance: Appliance, engine: Engine, name: str, *, held: dict[str, str]) -> None:
    pool, watch = appliance.engines, appliance.live.watches[engine.url]
    try:
        await _prepare(appliance, engine, name, held=held)
    except FlywheelError as error:
        if isinstance(error, UserError):  # the adapter's fault, not the engine's
            watch.rest_until[name] = time.monotonic() + REST_SECONDS
        _note(watch, engine, name, str(error))
        return
    pool.mark(engine, pool.ready_for(engine) | {name})
    _note(watch, engine, name, None)
    log.info("reconcile: %s is ready on %s", name, engine.url)


def _note(watch: Watch, engine: Engine, adapter: str, trouble: str | None) -> None:
    if watch.note(adapter, trouble):
        log.warning("reconcile: %s %s: %s", engine.url, adapter, trouble)


async def _prepare(appliance: Appliance, engine: Engine, name: str, *, held: dict[str, str]) -> None:
    settings, live = appliance.settings, appliance.live
    if live.base_model is None:
        raise UnavailableError("The base model has not been read yet.")
    folder = settings.adapters_folder / name
    await asyncio.to_thread(
        verify_adapter,
        folder,
        base_model_hash=live.base_model.hash,
        max_rank=settings.engine.max_lora_rank,
        shapes=live.base_model.shapes,
    )
    leads = await live.leadership.renewed()
    if held.get(name) != str(folder):
        if not leads:
            raise UnavailableError("waits for the serving that leads to load it")
        await _load(engine, name, folder, held=held, places=settings.engine.max_cpu_loras)
    try:
        await warm_and_check(appliance.database, engine, name, record=leads)
    except UserError:
        await _unload(appliance, engine, name, held=held)
        raise


async def _load(engine: Engine, name: str, folder: Path, *, held: dict[str, str], places: int) -> None:
    if name in held:
        await engine.unload(name)  # whoever loaded it used other files, and may take them away
    elif len(held) >= places:
        raise UnavailableError("waits for a free place on the engine (engine.max_cpu_loras)")
    await engine.load(name, folder)
    held[name] = str(folder)
