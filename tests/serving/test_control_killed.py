"""The controller killed at each step of a swap, for each replica: its successor makes the same of it.

After each death everything that the process knew is gone. What is left is the database with a lease that runs on, and
what the replicas hold.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from sqlalchemy import Engine as Database
from sqlalchemy import event
from sqlmodel import Session, select

from benchmarks.made_lora import publish_lora
from flywheel.adapters import Adapter
from flywheel.database import open_database, reading, writing
from flywheel.experiments import Experiment, running_experiments
from flywheel.leases import ENGINES, Lease
from flywheel.promotions import Approval, live_adapter, promote, reject, roll_back
from flywheel.settings import STARTER, Settings, load_settings
from flywheel.variants import Variant
from serving.leadership import LEASE_SECONDS
from serving.live import BaseModel, read_base_model
from serving.reconcile import DRAIN_SECONDS
from tests.made_control import Control
from tests.made_records import made_adapter, made_experiment
from tests.serving.scripted_replicas import ANY, LOG_PROBS, URLS, Clock, Death, Killed, Replica

USERS = [f"user-{number}" for number in range(20)]
TICKS = 2
"""In which a successor has made everything right once the lease is its own: with the lease's time less than 10 s."""
LOOKS = ["/health", "/v1/models"]
LOADS = [*LOOKS, "/v1/load_lora_adapter", "/v1/chat/completions", "/v1/completions"]
UNLOADS = [*LOOKS, "/v1/unload_lora_adapter"]
MOMENTS = ["before", "after"]


class Swap:
    """Two replicas and a database, through the lives of several controllers."""

    def __init__(self, settings: Settings, database: Database, clock: Clock) -> None:
        self.settings, self.database, self.clock = settings, database, clock
        self.base = base_model().hash
        self.loras = sorted(folder.name for folder in settings.adapters_folder.iterdir())
        self.held: list[dict[str, str]] = [{}, {}]
        probes = [{"token_ids": [1, 2, 3], "log_probs": LOG_PROBS}]
        with writing(database) as session:
            for name in self.loras:
                made_adapter(session, name, base_model_hash=self.base, manifest={"probes": probes})
        self.control = self.new_controller()

    def new_controller(self) -> Control:
        engines = [Replica(url, held) for url, held in zip(URLS, self.held, strict=True)]
        control = Control(self.settings, self.database, engines)
        control.live.base_model = base_model()  # it takes longer to read than all the rest
        return control

    def live(self, session: Session) -> Adapter:
        found = live_adapter(session, alias="flywheel", base_model_hash=self.base)
        assert found is not None
        return found

    def challenge(self, lora: int) -> None:
        with writing(self.database) as session:
            made_experiment(session, champion=self.live(session).name, challenger=self.loras[lora], verdict="SHIP")

    def running(self, session: Session) -> Experiment:
        [found] = running_experiments(session, alias="flywheel")
        return found

    def promote(self) -> None:
        with writing(self.database) as session:
            trial, live = self.running(session), self.live(session)
            promote(session, trial, live=live, approval=Approval("olga", "better", trial.evidence_hash or ""))

    def reject(self) -> None:
        with writing(self.database) as session:
            reject(session, self.running(session), live=self.live(session), actor="olga", reason="worse")

    def roll_back(self) -> None:
        with writing(self.database) as session:
            roll_back(
                session,
                tenant="default",
                alias="flywheel",
                target=Variant(self.control.identity),
                live=self.live(session),
                actor="olga",
                reason="complaints",
            )

    def check(self) -> None:
        """What holds at every moment."""
        with reading(self.database) as session:
            live = live_adapter(session, alias="flywheel", base_model_hash=self.base)
        for place, held in enumerate(self.held):
            assert self.control.ready(place) <= set(held)
            assert all(root == str(self.settings.adapters_folder / name) for name, root in held.items())
        if live is not None and any(self.control.ready(place) for place in (0, 1)):
            standing = self.control.live.standing
            assert standing.champion == live.name
            if not standing.trials:
                assert {self.control.live.target("flywheel", unit=user).adapter for user in USERS} == {live.name}

    def converged(self) -> bool:
        wanted = set(self.control.live.wanted())
        return bool(wanted) and all(
            self.control.ready(place) == wanted and wanted <= set(held) for place, held in enumerate(self.held)
        )


@cache
def base_model() -> BaseModel:
    return read_base_model(STARTER)


def settings_of(home: Path) -> Settings:
    return load_settings(home=home, base_model=str(STARTER), engine={"urls": URLS})


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two adapters, to be copied."""
    settings = settings_of(tmp_path_factory.mktemp("published"))
    for seed in (1, 2):
        publish_lora(settings, seed=seed)
    return settings.adapters_folder


@pytest.fixture
def swap(tmp_path: Path, published: Path, migrated_sqlite: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Swap]:
    shutil.copy(migrated_sqlite, tmp_path / "flywheel.db")
    shutil.copytree(published, tmp_path / "adapters")
    database = open_database(f"sqlite:///{tmp_path / 'flywheel.db'}")
    event.listen(database, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
    yield Swap(settings_of(tmp_path), database, Clock(monkeypatch))
    database.dispose()


def boot(_swap: Swap) -> None:
    """Nothing was there before."""


def new_challenger(swap: Swap) -> None:
    swap.control.tick()
    swap.challenge(0)


def promotion(swap: Swap) -> None:
    new_challenger(swap)
    swap.control.tick()
    swap.promote()


def restart_of_both_engines(swap: Swap) -> None:
    promotion(swap)
    swap.control.tick()
    for held in swap.held:
        held.clear()


def rollback_and_unload(swap: Swap) -> None:
    """The second of two promotions is taken back, and the first adapter has drained."""
    promotion(swap)
    swap.control.tick()
    swap.challenge(1)
    swap.control.tick()
    swap.promote()
    swap.roll_back()
    drained(swap)


def rejection_and_unload(swap: Swap) -> None:
    new_challenger(swap)
    swap.control.tick()
    swap.reject()
    drained(swap)


def drained(swap: Swap) -> None:
    swap.control.tick()
    swap.clock.ahead += DRAIN_SECONDS


def deaths() -> Iterator[tuple[Callable[[Swap], None], str, str, str, int]]:
    steps = {
        boot: LOADS,
        new_challenger: LOADS,
        promotion: LOOKS,
        restart_of_both_engines: LOADS,
        rollback_and_unload: UNLOADS,
        rejection_and_unload: UNLOADS,
    }
    for before, paths in steps.items():
        for path, url, moment in itertools.product(paths, URLS, MOMENTS):
            yield before, url, path, moment, 1
    for path, url, moment in itertools.product(LOADS[2:], URLS, MOMENTS):
        yield restart_of_both_engines, url, path, moment, 2  # the champion is there, the identity adapter is not
    for moment in MOMENTS:
        yield boot, ANY, "/tokenize", moment, 1  # the probes are recorded by whichever replica comes first
    for number, moment in itertools.product((1, 2, 3), MOMENTS):  # lease, identity adapter, its probes
        yield boot, "database", "commit", moment, number


def named(case: tuple[Callable[[Swap], None], str, str, str, int]) -> str:
    before, place, step, moment, number = case
    return f"{before.__name__}-{moment}-{step.removeprefix('/')}-{number}-{place.removeprefix('http://')}"


@pytest.mark.parametrize("case", list(deaths()), ids=named)
def test_a_controller_killed_at_any_step_is_succeeded_by_one_that_makes_it_right(
    swap: Swap, case: tuple[Callable[[Swap], None], str, str, str, int]
) -> None:
    before, place, step, moment, number = case
    before(swap)
    swap.clock.ahead += LEASE_SECONDS / 2  # so that it asks for the lease anew
    with pytest.raises(Killed), Death(place, step, moment, number=number).awaiting(swap.control):
        swap.control.tick()

    left = [dict(held) for held in swap.held]
    with reading(swap.database) as session:
        led = session.get(Lease, ENGINES) is not None
    swap.control = swap.new_controller()
    swap.control.tick()
    swap.check()
    assert not led or swap.held == left  # while the dead one's lease lasts, nobody changes an engine
    swap.clock.ahead += LEASE_SECONDS
    for _ in range(TICKS):
        swap.control.tick()
        swap.check()
    assert swap.converged()

    swap.clock.ahead += DRAIN_SECONDS
    swap.control.tick()
    wanted = set(swap.control.live.wanted())
    assert [set(held) for held in swap.held] == [wanted, wanted]
    assert swap.converged()
    with reading(swap.database) as session:
        of_this_base = select(Adapter.name).where(Adapter.base_model_hash == swap.base)
        assert len(session.exec(of_this_base).all()) == 1 + len(swap.loras)  # one identity adapter
