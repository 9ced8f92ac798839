"""Several challengers at once: each user takes part in one experiment at most, and each experiment is judged alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine as Database
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, select

from flywheel.adapters import adapter
from flywheel.audit import AuditEntry
from flywheel.database import reading, writing
from flywheel.errors import ConflictError
from flywheel.experiments import Experiment, place_of, running_experiments, stop_experiment
from flywheel.promotions import Approval, promote
from flywheel.settings import load_settings
from serving.evidence import look_at_running
from serving.live import Target
from tests.made_records import ALIAS, made_adapter, made_experiment
from tests.serving.test_control_evidence import rated_users
from tests.serving.test_control_live import Standings

USERS = [f"user-{number}" for number in range(2000)]
ALL = {"identity-1", "lora-1", "lora-2"}


def two(session: Session, **second: Any) -> tuple[Experiment, Experiment]:
    """`lora-1` is tried on three tenths of the users, `lora-2` on half of them."""
    first = made_experiment(session, participants=0.3)
    made_adapter(session, "lora-2")
    return first, made_experiment(session, challenger="lora-2", participants=0.5, **second)


@pytest.fixture
def standings(database: Database, tmp_path: Path) -> Standings:
    return Standings(load_settings(home=tmp_path), database)


def targets(standings: Standings) -> dict[str, Target]:
    standings.refresh()
    standings.mark_all(*ALL)
    return {user: standings.live.target(ALIAS, unit=user) for user in USERS}


def test_each_user_takes_part_in_one_experiment_at_most(standings: Standings) -> None:
    with writing(standings.database) as session:
        first, second = two(session)
    found = Counter((target.experiment_id, target.arm, target.adapter) for target in targets(standings).values())
    share = {key: count / len(USERS) for key, count in found.items()}
    assert set(share) == {
        (first.id, "champion", "identity-1"),
        (first.id, "challenger", "lora-1"),
        (second.id, "champion", "identity-1"),
        (second.id, "challenger", "lora-2"),
        (None, None, "identity-1"),
    }
    assert share[first.id, "challenger", "lora-1"] == pytest.approx(0.15, abs=0.03)
    assert share[second.id, "challenger", "lora-2"] == pytest.approx(0.25, abs=0.03)
    assert share[None, None, "identity-1"] == pytest.approx(0.2, abs=0.03)


def test_the_end_of_one_experiment_moves_nobody_of_the_other(standings: Standings) -> None:
    with writing(standings.database) as session:
        first, second = two(session)
    before = targets(standings)
    with writing(standings.database) as session:
        stop_experiment(session, session.get_one(Experiment, first.id), state="stopped")
    after = targets(standings)
    assert [user for user in USERS if after[user].experiment_id == second.id] == [
        user for user in USERS if before[user].experiment_id == second.id
    ]
    assert all(after[user] == before[user] for user in USERS if before[user].experiment_id == second.id)


def test_one_challenger_that_is_not_ready_holds_up_its_own_users_alone(standings: Standings) -> None:
    with writing(standings.database) as session:
        first, _ = two(session)
    standings.refresh()
    standings.mark_all("identity-1", "lora-1")
    arms = Counter(standings.live.target(ALIAS, unit=user).experiment_id for user in USERS)
    assert set(arms) == {first.id, None}


def test_who_takes_part_is_free_of_the_arm(database: Database) -> None:
    with writing(database) as session:
        first = made_experiment(session, participants=0.3).assignment()
    taking_part = [user for user in USERS if first.has(place_of(ALIAS, user))]
    challenged = sum(first.arm_of(user) == "challenger" for user in taking_part) / len(taking_part)
    assert challenged == pytest.approx(0.5, abs=0.07)


def test_an_experiment_gets_the_first_stretch_of_users_that_is_long_enough(database: Database) -> None:
    with writing(database) as session:
        first, second = two(session)
        assert (first.users_from, second.users_from) == (0.0, 0.3)
        with pytest.raises(ConflictError, match=r"already runs .* or open this one for 20% of the users"):
            made_experiment(session, challenger="lora-2", participants=0.3)
        third = made_experiment(session, challenger="lora-2", participants=0.2)
        assert third.users_from == pytest.approx(0.8)
        assert third.assignment().taking_part[1] == 1.0
        stop_experiment(session, first, state="stopped")
        assert made_experiment(session, participants=0.1).users_from == 0.0
        assert made_experiment(session, participants=0.2).users_from == pytest.approx(0.1)
        with pytest.raises(ConflictError, match=r"promote or reject its challenger first\.$"):
            made_experiment(session, participants=0.01)


def test_the_database_itself_gives_a_stretch_of_users_to_one_experiment(database: Database) -> None:
    with writing(database) as session:
        first, _ = two(session)
    with pytest.raises(IntegrityError), writing(database) as session:
        session.add(Experiment(**(first.model_dump() | {"id": "exp-2"})))


def test_a_promotion_ends_the_others(database: Database) -> None:
    with writing(database) as session:
        first, second = two(session, verdict="SHIP")
        approval = Approval("olga", "better", second.evidence_hash or "")
        promote(session, second, live=adapter(session, "identity-1"), approval=approval)
    with reading(database) as session:
        assert session.get_one(Experiment, first.id).state == "stopped"
        assert session.get_one(Experiment, second.id).state == "promoted"
        entry = session.exec(select(AuditEntry).where(AuditEntry.act == "stop_experiment")).one()
        assert (entry.subject, entry.details["reason"]) == (first.id, "lora-2 was promoted: better")


def test_each_is_looked_at_and_one_that_is_stopped_leaves_the_other(database: Database) -> None:
    with writing(database) as session:
        first, second = two(session)
        for trial, liked in ((first, 0.0), (second, 1.0)):
            rated_users(session, trial, "champion", count=120, liked=0.5)
            rated_users(session, trial, "challenger", count=120, liked=liked, first=1000)
    assert look_at_running(database, alias=ALIAS)
    with reading(database) as session:
        bad, good = (session.get_one(Experiment, one.id) for one in (first, second))
        assert (bad.state, (bad.evidence or {})["verdict"]) == ("stopped", "ROLLBACK")
        assert (good.state, (good.evidence or {})["verdict"]) == ("running", "SHIP")
        assert [one.id for one in running_experiments(session, alias=ALIAS)] == [second.id]


def test_a_challenger_that_engines_have_no_place_for_is_refused_before_the_last_champion_loses_its_own(
    database: Database, tmp_path: Path
) -> None:
    standings = Standings(load_settings(home=tmp_path, engine={"max_loras": 3}), database)
    with writing(database) as session:
        made_experiment(session, participants=0.5)
        made_adapter(session, "lora-2")
    standings.refresh()
    standings.live.check_places("lora-2")
    standings.live.check_places("identity-1")  # a prompt alone takes no place
    standings = Standings(load_settings(home=tmp_path, engine={"max_loras": 2}), database)
    standings.refresh()
    with pytest.raises(ConflictError, match=r"places for 2 adapters \(engine.max_loras\), and 3 would be wanted"):
        standings.live.check_places("lora-2")
