"""Leases on SQLite and PostgreSQL: one holder at a time, whoever asks at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import Engine

from flywheel import leases
from flywheel.database import now, reading, writing
from flywheel.leases import ADAPTER, adapters_asked_for, release_lease, take_lease


class Clock:
    def __init__(self) -> None:
        self.moment = now()

    def __call__(self) -> object:
        return self.moment


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(leases, "now", made)
    return made


def take(database: Engine, holder: str, name: str = "engines") -> bool:
    with writing(database) as session:
        return take_lease(session, name=name, holder=holder, seconds=5)


def test_a_lease_is_its_holders_until_its_time_is_over(database: Engine, clock: Clock) -> None:
    assert take(database, "one")
    clock.moment += timedelta(seconds=4)
    assert not take(database, "two")
    assert take(database, "one")  # renewed
    clock.moment += timedelta(seconds=4)
    assert not take(database, "two")
    clock.moment += timedelta(seconds=1)
    assert take(database, "two")
    assert not take(database, "one")


def test_a_lease_that_is_let_go_is_free_at_once_and_nobody_lets_go_of_anothers(database: Engine) -> None:
    take(database, "one")
    for holder, free in (("two", False), ("one", True)):
        with writing(database) as session:
            release_lease(session, name="engines", holder=holder)
        assert take(database, "two") is free


def test_of_many_who_ask_at_once_one_holds_it(database: Engine) -> None:
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            held = list(pool.map(lambda number: take(database, f"serving-{number}"), range(8)))
            assert held.count(True) == 1
            with writing(database) as session:
                release_lease(session, name="engines", holder=f"serving-{held.index(True)}")


def test_a_wish_for_an_adapter_holds_for_a_while(database: Engine, clock: Clock) -> None:
    take(database, "olga", ADAPTER + "lora-1")
    clock.moment += timedelta(seconds=2)
    take(database, "olga", ADAPTER + "lora-2")
    take(database, "serving")
    with reading(database) as session:
        assert adapters_asked_for(session) == ["lora-2", "lora-1"]
        clock.moment += timedelta(seconds=4)
        assert adapters_asked_for(session) == ["lora-2"]
