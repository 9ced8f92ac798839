"""Which engines `flywheel up` runs at the moment: those with adapters, those with merged weights, or both.

`flywheel/merges.py` decides from the records; here engines are started and stopped by it. What cannot be done (memory
for one engine only, weights that do not start) ends the merge with a sentence, and the adapter goes on answering.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from sqlalchemy import Engine as Database
from sqlalchemy.exc import SQLAlchemyError

from flywheel.database import reading, writing
from flywheel.errors import DatabaseTroubleError
from flywheel.merges import FAILED, SERVING, WRITTEN, engines_wanted, merged_folder, move_merge, standing_merge
from flywheel.parts import ENGINE, MERGED_ENGINE, engine_parts, merged_engine_parts
from flywheel.processes import Part, Running, Supervisor, available_bytes
from flywheel.settings import Settings

LOOK_SECONDS = 1.0
MOST_DEATHS = 3
"""Of merged engines in one merge; adapters do it then."""
SPARE = 1.1
"""Times what a running engine takes: so much has to be free for another."""


class EngineParts:
    """The engines among the appliance's parts."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings, self._database = settings, database
        self._adapters = engine_parts(settings)
        self._next_look = 0.0
        self._deaths = 0

    def now(self) -> list[Part]:
        """Those that ought to run."""
        with reading(self._database) as session:
            wanted = engines_wanted(session, self._settings)
        merged = wanted.merged
        if merged is not None and not merged_folder(self._settings, merged).is_dir():
            self._give_up(f"the merged weights of {merged} are gone")
            return self._adapters
        found = self._adapters if wanted.adapters else []
        return found + (merged_engine_parts(self._settings, merged) if merged is not None else [])

    def follow(self, supervisor: Supervisor) -> list[str]:
        """Start what ought to run, stop what ought not; a sentence for each. Looks at the records once a second."""
        if time.monotonic() < self._next_look:
            return []
        self._next_look = time.monotonic() + LOOK_SECONDS
        try:
            wanted = {part.name: part for part in self.now()}
            return self._stop(supervisor, wanted) or self._start(supervisor, wanted)
        except (SQLAlchemyError, DatabaseTroubleError):  # a database that is busy or away: what runs goes on
            return []

    def _stop(self, supervisor: Supervisor, wanted: Mapping[str, Part]) -> list[str]:
        said = []
        for name, running in list(supervisor.running.items()):
            merged = name.startswith(MERGED_ENGINE)
            if not (merged or name.startswith(ENGINE)):
                continue
            if merged and name in wanted and (trouble := self._trouble(running)) is not None:
                self._give_up(trouble)
                supervisor.stop_part(name)
                said.append(f"{name} does not serve: {trouble}")
            elif name not in wanted or (merged and running.part.command != wanted[name].command):
                supervisor.stop_part(name)
                said.append(f"{name} is stopped: it is not needed now")
        return said

    def _trouble(self, running: Running) -> str | None:
        """Why a merged engine is not worth another try. One that serves may be busy; it is started again if it dies."""
        serving = self._state() == SERVING
        if running.alive:
            late = time.monotonic() - running.started > running.part.start_seconds
            if serving or not late or running.healthy:
                return None
            return f"it was not healthy after {running.part.start_seconds:.0f} s"
        self._deaths += 1
        if serving and self._deaths < MOST_DEATHS:
            return None
        return f"its engine died: {running.last_words(1).strip() or 'it said nothing'} (see {running.log})"

    def _start(self, supervisor: Supervisor, wanted: Mapping[str, Part]) -> list[str]:
        said: list[str] = []
        for name, part in wanted.items():
            if name in supervisor.running:
                continue
            if name.startswith(MERGED_ENGINE) and (trouble := _too_large(supervisor)) is not None:
                self._give_up(trouble)
                return [*said, f"{name} is not started: {trouble}"]
            self._deaths = self._deaths if self._state() == SERVING else 0
            supervisor.start_part(part)
            said.append(f"{name} is started")
        return said

    def _state(self) -> str | None:
        with reading(self._database) as session:
            merge = standing_merge(session, alias=self._settings.serving.alias)
        return merge.state if merge is not None else None

    def _give_up(self, trouble: str) -> None:
        with writing(self._database) as session:
            merge = standing_merge(session, alias=self._settings.serving.alias)
            if merge is not None and merge.state in (WRITTEN, SERVING):
                move_merge(session, merge.id, expected=merge.state, state=FAILED, trouble=trouble)


def _too_large(supervisor: Supervisor) -> str | None:
    """Why another engine does not fit beside the running ones."""
    engines = [running for name, running in supervisor.running.items() if name.startswith((ENGINE, MERGED_ENGINE))]
    needed = SPARE * max((running.resident_bytes() for running in engines), default=0)
    free = available_bytes()
    if free >= needed:
        return None
    return f"two engines do not fit: another takes about {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"
