"""Fresh candidates for rated answers: the same prompt, the live adapter, a higher temperature.

The engine is asked for all of them at once, a bounded number of interactions at a time; each interaction's candidates
and pairs are stored together. An answer that cannot be had is skipped and stays in the queue for the next refill.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine as Database
from sqlmodel import col, select

from flywheel.database import new_id, now, reading, writing
from flywheel.errors import UnavailableError
from flywheel.interactions import KEPT, Interaction
from flywheel.pairs import Candidate, add_pairs, rated_answers
from serving.appliance import Appliance

AT_ONCE = 16
CARRIED = ("stop",)
"""Parameters of the client that decide what a whole answer is."""


@dataclass(frozen=True)
class Refill:
    """How the review queue is to be filled."""

    below: float | None
    limit: int
    candidates: int
    temperature: float


async def refill(appliance: Appliance, wish: Refill) -> dict[str, int]:
    """Fill the queue; returns how many interactions were taken, candidates made and pairs stored.

    Raises UnavailableError when no engine is ready, or when not one candidate could be had.
    """
    adapter = appliance.live.standing.champion
    if adapter is None:
        raise UnavailableError("No adapter is live yet: the appliance is starting. Try again in a moment.")
    taken = await asyncio.to_thread(_rated, appliance.database, appliance.tenant, wish)
    gate = asyncio.Semaphore(AT_ONCE)

    async def ask(interaction: Interaction) -> list[Candidate]:
        async with gate:
            return await _candidates(appliance, interaction, adapter=adapter, wish=wish)

    made = await asyncio.gather(*(ask(interaction) for interaction in taken), return_exceptions=True)
    failures = [found for found in made if isinstance(found, BaseException)]
    unexpected = [failure for failure in failures if not isinstance(failure, UnavailableError)]
    if unexpected or (failures and len(failures) == len(made)):
        raise (unexpected or failures)[0]
    answered = [(row, found) for row, found in zip(taken, made, strict=True) if not isinstance(found, BaseException)]
    pairs = await asyncio.to_thread(_store, appliance.database, answered)
    return {"interactions": len(taken), "candidates": sum(len(found) for _, found in answered), "pairs": pairs}


def _rated(database: Database, tenant: str, wish: Refill) -> list[Interaction]:
    with reading(database) as session:
        return rated_answers(session, tenant=tenant, below=wish.below, limit=wish.limit)


async def _candidates(appliance: Appliance, interaction: Interaction, *, adapter: str, wish: Refill) -> list[Candidate]:
    parameters = interaction.parameters
    asked: dict[str, Any] = {name: parameters[name] for name in CARRIED if name in parameters} | {
        "temperature": wish.temperature,
        "max_tokens": parameters.get("max_tokens") or appliance.settings.serving.max_tokens,
    }
    body = {"model": adapter, "messages": interaction.prompt, "n": wish.candidates, **asked}
    with appliance.live.speaking(adapter):
        answer = await appliance.engines.engine_for(adapter).complete(body)
    return [
        Candidate(
            id=new_id("cand"),
            tenant=interaction.tenant,
            completion_id=interaction.id,
            adapter=adapter,
            prompt_version=interaction.prompt_version,
            text=choice["message"]["content"],
            parameters=asked,
            created_at=now(),
        )
        for choice in answer["choices"]
        if choice["finish_reason"] == "stop" and (choice["message"]["content"] or "").strip()
    ]


def _store(database: Database, answered: list[tuple[Interaction, list[Candidate]]]) -> int:
    ids = [interaction.id for interaction, _ in answered]
    with writing(database) as session:
        # Two refills at once may have taken the same interactions: the first to store wins.
        made = select(Candidate.completion_id).where(col(Candidate.choice).is_(None))
        stored = set(session.exec(made.where(col(Candidate.completion_id).in_(ids))))
        # Words may have been deleted while the engine worked.
        query = select(Interaction.id).where(col(Interaction.id).in_(ids), Interaction.content == KEPT)
        there = set(session.exec(query.with_for_update()))
        fresh = [(row, found) for row, found in answered if row.id in there - stored]
        return sum(len(add_pairs(session, row, candidates=found)) for row, found in fresh)
