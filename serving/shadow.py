"""Shadow answers: what a challenger would have said to questions that the champion answered. Nobody is shown them.

A question is shadowed after its answer is out, so no user waits for it. Costs are bounded: no more than
`serving.shadow_at_once` are under way, and a question that finds no free place goes unshadowed. An answer is kept as a
candidate of the interaction, and stands in the review queue beside the champion's; none is kept of words that are not
kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine as Database
from sqlmodel import select

from flywheel.database import new_id, now, writing
from flywheel.errors import UnavailableError
from flywheel.interactions import KEPT, Interaction
from flywheel.pairs import Candidate, add_pairs
from serving.turn import Turn, storable

if TYPE_CHECKING:
    from serving.appliance import Appliance

log = logging.getLogger(__name__)


class Shadows:
    """Asks the challenger, in the background."""

    def __init__(self, *, at_once: int) -> None:
        self.outcomes: Counter[str] = Counter()
        """kept, failed, skipped."""
        self._at_once = at_once
        self._under_way: set[asyncio.Task[None]] = set()

    def ask(self, appliance: Appliance, turn: Turn) -> None:
        """Shadow one chat that is over, unless there is no place, or nothing is kept of it."""
        if not turn.kept or turn.outcome != "finished":
            return
        if len(self._under_way) >= self._at_once:
            self.outcomes["skipped"] += 1
            return
        task = asyncio.create_task(self._shadow(appliance, turn))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _shadow(self, appliance: Appliance, turn: Turn) -> None:
        body = turn.other_body(seeded=appliance.settings.engine.seeds)
        adapter = body["model"]
        try:
            with appliance.live.speaking(adapter):
                answer = await appliance.engines.engine_for(adapter).complete(body)
            choice = answer["choices"][0]
            whole = {"finish_reason": choice["finish_reason"], **turn.parameters}
            kept = await asyncio.to_thread(_keep, appliance.database, turn, choice["message"]["content"] or "", whole)
        except UnavailableError as error:
            log.warning("shadow: %s", error)
            self.outcomes["failed"] += 1
            return
        self.outcomes["kept" if kept else "skipped"] += 1

    async def close(self) -> None:
        """Give up what is under way."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)


def _keep(database: Database, turn: Turn, text: str, parameters: dict[str, Any]) -> bool:
    """The answer, and the pair for the reviewers. False when the words were deleted meanwhile."""
    with writing(database) as session:
        query = select(Interaction).where(Interaction.id == turn.completion_id, Interaction.content == KEPT)
        row = session.exec(query.with_for_update()).first()
        if row is None:
            return False
        candidate = Candidate(
            id=new_id("cand"),
            tenant=turn.tenant,
            completion_id=turn.completion_id,
            adapter=turn.target.shadow,
            prompt_version=turn.other_version,
            text=storable(text),
            parameters=parameters,
            created_at=now(),
        )
        add_pairs(session, row, candidates=[candidate])
    return True
