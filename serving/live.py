"""Who answers to which name now: the champion of the alias pair, the running experiments, the adapters in reach.

Data model: a `Standing` is one reading of the database; it is replaced whole, so a request sees the state before or
after a promotion and never a mixture. Which engine is ready for what stands in the engine pool; how many requests are
in flight per adapter is counted here, so that nothing is unloaded while it speaks.

A prompt's words are read with the standing, so no request reads them. They reach routed requests alone, so others are
in no experiment that compares nothing else. Held-out users keep the shipped wording, as they keep the base model.

Invariant: users are split between the arms only while every replica in service is ready for both of them. Before that
(a challenger just published, an engine just started) everybody is answered by the champion and belongs to no arm, so
no user is ever counted in two.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Engine as Database

from flywheel.adapters import identity_adapter
from flywheel.base_model import base_model_hash, module_shapes
from flywheel.database import reading, writing
from flywheel.errors import ConflictError, NotFoundError, UnavailableError
from flywheel.experiments import CHALLENGER, HOLDOUT, Assignment, place_of, running_experiments
from flywheel.leases import ADAPTER, adapters_asked_for, take_lease
from flywheel.merges import MergeStanding, standing_merge
from flywheel.promotions import live_adapter, live_promotion
from flywheel.prompt_versions import SHIPPED_WORDING, Wording, wording_of
from flywheel.settings import Settings
from flywheel.statistics.assignment import unit_interval
from flywheel.variants import Variant
from serving.counted import Counted
from serving.engine import EnginePool
from serving.leadership import Leadership
from serving.protocol import LONGEST_NAME
from serving.watch import Watch

ASKED, ASKED_SECONDS = "an operator", 600.0
"""How long an adapter stays loaded that somebody wants to roll back to."""
MOST_TARGETS = 10_000


class UnknownNameError(NotFoundError):
    """The name asked for is neither an alias nor an adapter in reach."""

    code = "model_not_found"


@dataclass(frozen=True)
class BaseModel:
    """What adapters are checked against."""

    folder: Path
    hash: str
    shapes: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Trial:
    """A running experiment, and the challenger's words."""

    assignment: Assignment
    wording: Wording
    compares_live: bool
    """Whether its champion is what is live now."""


@dataclass(frozen=True)
class Standing:
    """One reading of the database."""

    champion: str | None = None
    prompt: str | None = None
    """The live prompt version; none: the shipped one."""
    wording: Wording = SHIPPED_WORDING
    epoch: str | None = None
    previous: str | None = None
    identity: str | None = None
    trials: tuple[Trial, ...] = ()
    asked_for: tuple[str, ...] = ()
    merge: MergeStanding | None = None


class Target(NamedTuple):
    """Who answers one request. A tuple, since each request makes one or two."""

    alias: str
    adapter: str
    epoch: str | None
    routed: bool
    arm: str | None = None
    experiment_id: str | None = None
    beside: str | None = None
    """Interleaved: the adapter whose answer is shown as well."""
    shadow: str | None = None
    """The adapter that answers too, for the record only."""
    wording: Wording = SHIPPED_WORDING
    other_wording: Wording | None = None
    """In which the one beside or in the shadow is asked."""


def tried(usual: Target, running: Trial, unit: str, *, picks: bool) -> Target:
    """`usual` (the champion's), as the experiment has it for somebody who takes part."""
    trial, wording = running.assignment, running.wording
    arm = trial.arm_of(unit)
    if arm is None or (trial.prompts_alone and not usual.routed):
        return usual
    adapter = trial.challenger.adapter
    if arm != CHALLENGER:
        return usual._replace(arm=arm, experiment_id=trial.id) if trial.mode == "split" else usual
    if trial.mode == "split":
        return usual._replace(adapter=adapter, wording=wording, arm=arm, experiment_id=trial.id)
    if trial.mode == "shadow":
        return usual._replace(experiment_id=trial.id, shadow=adapter, other_wording=wording)
    return usual._replace(experiment_id=trial.id, beside=adapter, other_wording=wording) if picks else usual


def read_base_model(folder: Path) -> BaseModel:
    """The base model's hash and shapes. Raises UserError."""
    return BaseModel(folder, base_model_hash(str(folder)), module_shapes(str(folder)))


class LiveAliases:
    """The standing, and the requests in flight per adapter."""

    def __init__(self, settings: Settings, database: Database, engines: EnginePool) -> None:
        self.settings = settings
        self.standing = Standing()
        self.base_model: BaseModel | None = None
        self.engine_is_back = asyncio.Event()
        """One that was dead takes connections again: there is work before the next tick."""
        self.watches = {engine.url: Watch() for engine in engines.all}
        self.leadership = Leadership(database, settings)
        self.merged_until = time.monotonic()
        """When merged weights were last in service here; at first, when this process began."""
        self._targets_of: tuple[int, Standing | None] = (-1, None)
        self._targets: dict[tuple[str, str, bool, bool], Target] = {}
        """Of those who asked since the standing or somebody's readiness changed: users ask again and again."""
        self._database = database
        self._engines = engines
        self._in_flight: Counter[str] = Counter()
        self._refreshing = asyncio.Lock()

    def target(self, name: str, *, unit: str, routed: bool = False, picks: bool = False) -> Target:
        """Who answers `unit` (a user or conversation) under this name; `routed`: the question is to be, whatever the
        name; `picks`: they would choose between two answers.

        Raises UnknownNameError (404), and UnavailableError while nothing is live yet.
        """
        changes, standing = self._targets_of
        if changes != self._engines.changes or standing is not self.standing or len(self._targets) >= MOST_TARGETS:
            self._targets_of, self._targets = (self._engines.changes, self.standing), {}
        asked = name, unit, routed, picks
        found = self._targets.get(asked)
        if found is None:
            found = self._target(*asked)
            if len(unit) <= LONGEST_NAME:
                self._targets[asked] = found
        return found

    def _target(self, name: str, unit: str, routed: bool, picks: bool) -> Target:
        standing, serving = self.standing, self.settings.serving
        if name not in (serving.alias, serving.plain_alias):
            if name not in self.wanted():
                raise UnknownNameError(f"No model {name!r} is served here. GET /v1/models lists the names.")
            return Target(name, name, standing.epoch, routed, wording=standing.wording)
        if standing.champion is None:
            raise UnavailableError("No adapter is live yet: the appliance is starting. Try again in a moment.")
        routed = routed or name == serving.alias
        if self._held_out(unit):
            return Target(name, standing.identity or standing.champion, standing.epoch, routed, arm=HOLDOUT)
        usual = Target(name, standing.champion, standing.epoch, routed, wording=standing.wording)
        if not standing.trials:
            return usual
        place = place_of(serving.alias, unit)
        trial = next((one for one in standing.trials if one.assignment.has(place)), None)
        return tried(usual, trial, unit, picks=picks) if trial is not None and self._both_arms_ready(trial) else usual

    def _held_out(self, unit: str) -> bool:
        share = self.settings.serving.holdout_share
        return share > 0 and unit_interval(f"{HOLDOUT}:{self.settings.serving.alias}", unit) < share

    def wanted(self) -> list[str]:
        """The adapters that engines should hold, the most important first, no more than they have places for.

        The previous champion is among them, so that a rollback is one flip.
        """
        standing, trials = self.standing, [trial.assignment for trial in self.standing.trials]
        arms = [arm.adapter for trial in trials for arm in (trial.champion, trial.challenger)]
        names = [standing.champion, standing.identity, *arms, *standing.asked_for, standing.previous]
        return list(dict.fromkeys(name for name in names if name is not None))[: self.settings.engine.max_loras]

    def ask_for(self, adapter: str) -> None:
        """Have an adapter loaded that the records alone do not call for: one that is to be rolled back to. Blocks."""
        with writing(self._database) as session:
            take_lease(session, name=ADAPTER + adapter, holder=ASKED, seconds=ASKED_SECONDS)

    def check_places(self, challenger: str) -> None:
        """Raises ConflictError when engines have no place for one more adapter; the previous champion keeps its own."""
        standing, places = self.standing, self.settings.engine.max_loras
        tried_now = [trial.assignment.challenger.adapter for trial in standing.trials]
        wanted = {standing.champion, standing.identity, standing.previous, challenger, *tried_now} - {None}
        if tried_now and len(wanted) > places:
            raise ConflictError(
                f"Engines have places for {places} adapters (engine.max_loras), and {len(wanted)} would be wanted: "
                "decide about a running experiment first, or raise it and restart the engines."
            )

    def _both_arms_ready(self, trial: Trial) -> bool:
        if not trial.compares_live or self.merged_in_service():
            return False
        return not self.not_ready(trial.assignment.challenger.adapter)

    def merged_in_service(self) -> bool:
        """Whether merged weights answer for the champion: all its users, since they can be no arm of anything."""
        return any(self.standing.champion in self._engines.ready_for(engine) for engine in self._engines.merged)

    def not_ready(self, adapter: str) -> list[str]:
        """Which replicas in service (ready for the champion) cannot serve `adapter`, a sentence each."""
        champion, merged = self.standing.champion, self.merged_in_service()
        if merged and adapter == champion:
            return []
        in_service = [engine for engine in self._engines.engines if champion in self._engines.ready_for(engine)]
        if not in_service:
            return ["merged weights answer, and no engine with adapters is up" if merged else "no engine is ready"]
        return [
            f"{adapter} is not ready on the engine at {engine.url}"
            + (f" ({trouble})" if (trouble := self.watches[engine.url].troubles.get(adapter)) else "")
            for engine in in_service
            if adapter not in self._engines.ready_for(engine)
        ]

    def live_view(self) -> dict[str, str | None]:
        """What is live, for people; a prompt of null is the shipped one."""
        standing = self.standing
        live = {"adapter": standing.champion, "prompt": standing.prompt, "epoch": standing.epoch}
        return {"alias": self.settings.serving.alias, **live}

    def speaking(self, adapter: str) -> Counted:
        """Counts one request for `adapter`. Enter it before anything is awaited after `target`."""
        return Counted(self._in_flight, adapter)

    def in_flight(self, adapter: str) -> int:
        """How many requests `adapter` is answering."""
        return self._in_flight[adapter]

    def names(self) -> list[str]:
        """Every name a client may ask for: the aliases, then the adapters in reach."""
        serving = self.settings.serving
        return [serving.alias, serving.plain_alias, *self.wanted()]

    def loaded_on(self, adapter: str) -> list[str]:
        """The engines that are ready for `adapter`."""
        return [engine.url for engine in self._engines.all if adapter in self._engines.ready_for(engine)]

    async def refresh(self) -> None:
        """Read champion, epoch and experiment from the database."""
        async with self._refreshing:  # an older reading never replaces a newer one
            if self.base_model is None:
                self.base_model = await asyncio.to_thread(read_base_model, Path(self.settings.base_model_path))
            self.standing = await asyncio.to_thread(read_standing, self._database, self.settings, self.base_model)


def read_standing(database: Database, settings: Settings, base_model: BaseModel) -> Standing:
    """One consistent reading of who is live and what runs."""
    alias = settings.serving.alias
    with reading(database) as session:
        champion = live_adapter(session, alias=alias, base_model_hash=base_model.hash)
        identity = identity_adapter(session, base_model_hash=base_model.hash)
        running, row = running_experiments(session, alias=alias), live_promotion(session, alias=alias)
        promoted = row is not None and champion is not None and row.adapter == champion.name
        live = Variant(champion.name, row.prompt if row else None) if champion else None
        return Standing(
            champion=live.adapter if live else None,
            prompt=live.prompt if live else None,
            wording=wording_of(session, live.prompt if live else None),
            epoch=row.id if row and promoted else None,
            previous=row.previous if row and promoted else None,
            identity=identity.name if identity else None,
            trials=tuple(
                Trial(one.assignment(), wording_of(session, one.challenger_prompt), one.champion_variant == live)
                for one in running
            ),
            asked_for=tuple(adapters_asked_for(session)),
            merge=standing_merge(session, alias=alias),
        )
