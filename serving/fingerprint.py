"""Fingerprint: whether an adapter answers on an engine as it did when it was made, by log-probabilities of probe texts.

A trained adapter's were recorded by the trainer. The identity adapter's are recorded at its first load, by the serving
that leads; the others wait for them.
"""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import Engine as Database

from flywheel.adapters import adapter
from flywheel.database import reading, writing
from flywheel.errors import UnavailableError, UserError
from serving.engine import Engine

FINGERPRINT_NATS = 0.15
"""Largest mean absolute difference of the probes' log-probabilities, in nats per token, over all probes together.

An engine in bfloat16 against a trainer in float32 differs by .02 to .05 on the starter (single probes by up to .09);
the same engine, alone or in a batch, by 0; an adapter that changes answers clearly is .3 and more away from another.
"""
PROBE_TEXTS = (
    "The quick brown fox jumps over the lazy dog, and then it does so once more.",
    "How do I change my password? Open the settings, choose security, and follow the steps.",
    "1, 2, 3, 4, 5: numbers, punctuation; and (some) brackets.",
)


WARM_UP = [{"role": "user", "content": "Hello"}]


async def warm_and_check(database: Database, engine: Engine, name: str, *, record: bool) -> None:
    """One answer, since the first may take long; then `check_fingerprint`, and its errors."""
    await engine.complete({"model": name, "messages": WARM_UP, "max_tokens": 4, "temperature": 0})
    await check_fingerprint(database, engine, name, record=record)


async def check_fingerprint(database: Database, engine: Engine, name: str, *, record: bool) -> None:
    """Raises UserError when the adapter is not itself. `record`: keep what it answers if nothing was kept so far.

    Raises UnavailableError when the engine does not answer, or nothing was kept and nothing may be.
    """
    probes, trained = await asyncio.to_thread(_probes_of, database, name)
    if trained and not probes:
        raise UserError(
            f"Adapter {name} has no probes in its manifest, so nobody can tell that it is itself. Train anew."
        )
    if not probes:
        if not record:
            raise UnavailableError(f"{name} waits for the serving that leads to record its probes")
        made = [await engine.tokenize(text) for text in PROBE_TEXTS]
        probes = [{"token_ids": ids, "log_probs": await engine.score(name, ids)} for ids in made]
        await asyncio.to_thread(_keep_probes, database, name, probes)
        return
    found = await asyncio.gather(*(engine.score(name, probe["token_ids"]) for probe in probes))
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
