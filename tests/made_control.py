"""Reconcile without an API around it: what the ticks need, on a real engine and a database of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Engine as Database

from flywheel.adapters import identity_adapter
from flywheel.base_model import base_model_hash
from flywheel.database import reading, writing
from flywheel.experiments import stop_experiment
from flywheel.settings import Settings
from serving.engine import Engine, EnginePool
from serving.live import LiveAliases
from serving.reconcile import reconcile_once
from tests.made_records import made_experiment

NOWHERE = "http://127.0.0.1:9"


class Control:
    """The control side of an appliance, without the rest; each call runs in an event loop of its own."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        engines: Sequence[Engine] = (),
        merged: Sequence[Engine] = (),
    ) -> None:
        self.settings, self.database = settings, database
        self.pool = EnginePool(list(engines) or [Engine(url) for url in settings.engine.urls], merged=merged)
        self.live = LiveAliases(settings, database, self.pool)

    @property
    def identity(self) -> str:
        with reading(self.database) as session:
            found = identity_adapter(session, base_model_hash=base_model_hash(self.settings.base_model_path))
        assert found is not None
        return found.name

    @property
    def appliance(self) -> Any:
        """What the loops ask of one."""
        return SimpleNamespace(settings=self.settings, database=self.database, engines=self.pool, live=self.live)

    def tick(self, times: int = 1) -> None:
        async def ticks() -> None:
            for _ in range(times):
                await reconcile_once(self.appliance)

        self.in_a_loop(ticks)

    def in_a_loop(self, act: Any) -> Any:
        async def run() -> Any:
            try:
                return await act()
            finally:
                self.pool.close()

        return asyncio.run(run())

    def loaded(self) -> set[str]:
        return set(self.in_a_loop(self.pool.engines[0].loaded))

    def ready(self, place: int = 0) -> set[str]:
        return set(self.pool.ready_for(self.pool.engines[place]))

    def trouble(self, name: str, place: int = 0) -> str:
        return self.live.watches[self.pool.engines[place].url].troubles.get(name, "")

    def challenge(self, challenger: str) -> str:
        with writing(self.database) as session:
            return made_experiment(session, champion=self.identity, challenger=challenger).id

    def end(self, experiment_id: str) -> None:
        from flywheel.experiments import Experiment

        with writing(self.database) as session:
            stop_experiment(session, session.get_one(Experiment, experiment_id), state="rejected")
