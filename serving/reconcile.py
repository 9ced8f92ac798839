"""Makes the engines match the database, at boot and every few seconds.

For each replica: alive? which adapters does it hold? Then, for each wanted adapter that it is not ready for: verify the
files → load → warm → compare the fingerprint → mark ready. What is wanted no longer loses its mark in one tick and is
unloaded in a later one, once no request speaks through it. Every step can be repeated, so dying between two of them
costs a tick, nothing else.

Invariants: an engine is asked to load only files that `verify_adapter` has passed, answers from none that this process
did not have it load (files that vanish under an engine kill it), and never holds more than `engine.max_loras` through
us; an adapter is marked ready only after it gave the log-probabilities that were recorded
when it was made (a trained one: by the trainer; the identity adapter: at its first load). A replica that forgot its
adapters (it restarted) is not ready until they are back.

Not covered: starting or restarting engines (`flywheel up`), and several servings with one set of engines.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine as Database

from flywheel.adapter_files import publish_adapter, verify_adapter
from flywheel.adapters import Adapter, adapter, identity_adapter
from flywheel.database import now, reading, writing
from flywheel.errors import FlywheelError, UnavailableError, UserError
from flywheel.identity_adapter import write_identity_adapter
from flywheel.settings import Settings
from serving.engine import Engine
from serving.evidence import look_at_running
from serving.live import BaseModel, LiveAliases, Watch

if TYPE_CHECKING:
    from serving.appliance import Appliance

log = logging.getLogger(__name__)

FINGERPRINT_NATS = 0.15
"""Largest mean absolute difference of the probes' log-probabilities, in nats per token, over all probes together.

An engine in bfloat16 against a trainer in float32 differs by .02 to .05 on the starter (single probes by up to .09);
the same engine, alone or in a batch, by 0; an adapter that changes answers clearly is .3 and more away from another.
"""
REST_SECONDS = 15.0
"""How long an adapter that failed its checks is left alone on that engine."""
LOOK_SHARE = 20
"""A look at a large experiment takes its time; the next one waits this many times as long."""
MISSES = 2
"""Ticks in a row without an answer after which an engine is out of service: one may just be a busy machine."""
PROBE_TEXTS = (
    "The quick brown fox jumps over the lazy dog, and then it does so once more.",
    "How do I change my password? Open the settings, choose security, and follow the steps.",
    "1, 2, 3, 4, 5: numbers, punctuation; and (some) brackets.",
)
WARM_UP = [{"role": "user", "content": "Hello"}]


async def reconcile_forever(appliance: Appliance) -> None:
    """Reconcile and look at the running experiment until cancelled."""
    settings = appliance.settings.serving
    next_look = time.monotonic()
    while True:
        try:
            await reconcile_once(appliance)
            if time.monotonic() >= next_look:
                begun = time.monotonic()
                if await asyncio.to_thread(look_at_running, appliance.database, alias=settings.alias):
                    await appliance.live.refresh()  # the experiment was stopped
                took = time.monotonic() - begun
                next_look = time.monotonic() + max(settings.look_seconds, LOOK_SHARE * took)
        except Exception as error:  # noqa: BLE001  one bad tick must not end the loop
            log.warning("reconcile: %s: %s", type(error).__name__, error)
        await asyncio.sleep(settings.reconcile_seconds)


async def reconcile_once(appliance: Appliance) -> None:
    """One tick over all engines. Trouble with one engine or adapter is noted and leaves the others alone."""
    live = appliance.live
    await live.refresh()
    identity = live.standing.identity
    if live.base_model is not None and not (identity and (appliance.settings.adapters_folder / identity).is_dir()):
        await asyncio.to_thread(publish_identity, appliance.database, appliance.settings, live.base_model)
        await live.refresh()
    ticks = [_reconcile_engine(appliance, engine) for engine in appliance.engines.engines]
    for outcome in await asyncio.gather(*ticks, return_exceptions=True):
        if outcome is not None:
            raise outcome


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
    wanted, watch = live.wanted(), live.watches[engine.url]
    loaded = await _loaded(engine)
    if loaded is None:
        watch.misses += 1
        if watch.misses >= MISSES:
            pool.mark(engine, set())
            watch.rest_until.clear()  # it will come back empty, and deserves a fresh try
            watch.ours.clear()
            _note(watch, engine, "", "does not answer")
        return
    watch.misses = 0
    _note(watch, engine, "", None)
    marked = pool.ready_for(engine) & loaded
    ready = set(wanted) & marked
    pool.mark(engine, ready)
    loaded -= await _unload_idle(live, engine, loaded - set(wanted) - marked)
    for name in set(watch.troubles) - {"", *wanted}:
        _note(watch, engine, name, None)
    for name in wanted:
        if name not in ready and await _made_ready(appliance, engine, name, loaded=loaded):
            ready.add(name)
            loaded.add(name)
    pool.mark(engine, ready)


async def _loaded(engine: Engine) -> set[str] | None:
    """The adapters an engine holds; None when it does not answer."""
    try:
        return await engine.loaded() if await engine.healthy() else None
    except UnavailableError:
        return None


async def _unload_idle(live: LiveAliases, engine: Engine, names: set[str]) -> set[str]:
    idle = {name for name in names if live.in_flight(name) == 0}
    for name in sorted(idle):
        try:
            await engine.unload(name)
        except UnavailableError as error:
            _note(live.watches[engine.url], engine, name, str(error))
            return set()
        log.info("reconcile: unloaded %s from %s", name, engine.url)
    return idle


async def _made_ready(appliance: Appliance, engine: Engine, name: str, *, loaded: set[str]) -> bool:
    watch = appliance.live.watches[engine.url]
    if watch.rest_until.get(name, 0) > time.monotonic():
        return False
    if name not in loaded and len(loaded) >= appliance.settings.engine.max_loras:
        _note(watch, engine, name, "waits for a free place on the engine (engine.max_loras)")
        return False
    try:
        if name in loaded - watch.ours:
            await engine.unload(name)  # whoever loaded it may have used other files, and may take them away
        await _prepare(appliance, engine, name, load=name not in loaded & watch.ours)
    except FlywheelError as error:
        if isinstance(error, UserError):  # the adapter's fault, not the engine's
            watch.rest_until[name] = time.monotonic() + REST_SECONDS
        _note(watch, engine, name, str(error))
        return False
    watch.ours.add(name)
    _note(watch, engine, name, None)
    log.info("reconcile: %s is ready on %s", name, engine.url)
    return True


def _note(watch: Watch, engine: Engine, adapter: str, trouble: str | None) -> None:
    if watch.note(adapter, trouble):
        log.warning("reconcile: %s %s: %s", engine.url, adapter, trouble)


async def _prepare(appliance: Appliance, engine: Engine, name: str, *, load: bool) -> None:
    settings, base_model = appliance.settings, appliance.live.base_model
    if base_model is None:
        raise UnavailableError("The base model has not been read yet.")
    folder = settings.adapters_folder / name
    await asyncio.to_thread(
        verify_adapter,
        folder,
        base_model_hash=base_model.hash,
        max_rank=settings.engine.max_lora_rank,
        shapes=base_model.shapes,
    )
    if load:
        await engine.load(name, folder)
    await engine.complete({"model": name, "messages": WARM_UP, "max_tokens": 4, "temperature": 0})
    try:
        await _check_fingerprint(appliance.database, engine, name)
    except UserError:
        await engine.unload(name)
        raise


async def _check_fingerprint(database: Database, engine: Engine, name: str) -> None:
    probes, trained = await asyncio.to_thread(_probes_of, database, name)
    if trained and not probes:
        raise UserError(
            f"Adapter {name} has no probes in its manifest, so nobody can tell that it is itself. Train anew."
        )
    if not probes:
        made = [await engine.tokenize(text) for text in PROBE_TEXTS]
        probes = [{"token_ids": ids, "log_probs": await engine.score(name, ids)} for ids in made]
        await asyncio.to_thread(_keep_probes, database, name, probes)
        return
    found = [await engine.score(name, probe["token_ids"]) for probe in probes]
    distance = mean_distance(found, [probe["log_probs"] for probe in probes])
    if not distance <= FINGERPRINT_NATS:  # also when it is NaN
        raise UserError(
            f"Adapter {name} does not answer on {engine.url} as it did when it was made: its probes are off by "
            f"{distance:.3f} nats per token (at most {FINGERPRINT_NATS}). Compare the engine's base model with "
            "settings.base_model, and restart the engine."
        )


def mean_distance(found: list[list[float]], expected: list[list[float]]) -> float:
    """Mean absolute difference per token of two lists of probes; infinite when their lengths differ."""
    if [len(probe) for probe in found] != [len(probe) for probe in expected] or not any(expected):
        return float("inf")
    gaps = [
        abs(one - other)
        for mine, theirs in zip(found, expected, strict=True)
        for one, other in zip(mine, theirs, strict=True)
    ]
    return sum(gaps) / len(gaps)


def _probes_of(database: Database, name: str) -> tuple[list[dict[str, Any]], bool]:
    """What was recorded, and whether a trainer ought to have recorded something."""
    with reading(database) as session:
        record = adapter(session, name)
    return list(record.manifest.get("probes") or []), record.run_id is not None


def _keep_probes(database: Database, name: str, probes: list[dict[str, Any]]) -> None:
    with writing(database) as session:
        record = adapter(session, name)
        if record.run_id is None and not record.manifest.get("probes"):
            record.manifest = {**record.manifest, "probes": probes}
            session.add(record)
