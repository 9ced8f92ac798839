from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import Engine as Database
from sqlmodel import Session

from flywheel.adapters import Adapter
from flywheel.database import writing
from flywheel.errors import UnavailableError
from flywheel.experiments import Experiment, stop_experiment
from flywheel.promotions import Approval, live_adapter, promote, roll_back
from flywheel.prompt_versions import SHIPPED_WORDING
from flywheel.settings import Settings, load_settings
from flywheel.variants import Variant
from serving.engine import Engine, EnginePool
from serving.live import BaseModel, LiveAliases, UnknownNameError
from tests.made_records import made_adapter, made_experiment, made_prompt

USERS = [f"user-{number}" for number in range(40)]


class Standings:
    """A live view over two engines that nobody asks anything, and the database behind it."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.database = database
        self.engines = [Engine(url) for url in ("http://one", "http://two")]
        self.pool = EnginePool(self.engines)
        self.live = LiveAliases(settings, database, self.pool)
        self.live.base_model = BaseModel(Path(), "base", {})

    def refresh(self) -> None:
        asyncio.run(self.live.refresh())

    def mark_all(self, *names: str) -> None:
        for engine in self.engines:
            self.pool.mark(engine, set(names))

    def adapters_of(self, name: str) -> set[str]:
        return {self.live.target(name, unit=user).adapter for user in USERS}

    def variants(self) -> set[tuple[str | None, str, str]]:
        """Arm, adapter and prompt version that routed users meet."""
        targets = [self.live.target("flywheel", unit=user) for user in USERS]
        return {(target.arm, target.adapter, target.wording.version) for target in targets}


@pytest.fixture
def standings(database: Database, tmp_path: Path) -> Standings:
    return Standings(load_settings(home=tmp_path), database)


def champion(session: Session) -> Adapter:
    found = live_adapter(session, alias="flywheel", base_model_hash="base")
    assert found is not None
    return found


def promoted(session: Session, trial: Experiment) -> str:
    session.refresh(trial)
    approval = Approval("olga", "better", trial.evidence_hash or "")
    return promote(session, trial, live=champion(session), approval=approval).id


def test_before_anything_is_live_an_alias_is_unavailable_and_other_names_are_unknown(standings: Standings) -> None:
    standings.refresh()
    with pytest.raises(UnavailableError, match="starting"):
        standings.live.target("flywheel", unit="ann")
    with pytest.raises(UnknownNameError, match="gpt-4") as raised:
        standings.live.target("gpt-4", unit="ann")
    assert (raised.value.status, raised.value.code) == (404, "model_not_found")


def test_both_aliases_are_answered_by_the_champion_and_one_is_routed(standings: Standings) -> None:
    with writing(standings.database) as session:
        made_adapter(session, "identity-1")
    standings.refresh()
    targets = [standings.live.target(name, unit="ann") for name in ("flywheel", "flywheel-plain")]
    assert [(target.adapter, target.routed, target.arm, target.epoch) for target in targets] == [
        ("identity-1", True, None, None),
        ("identity-1", False, None, None),
    ]
    assert standings.live.names() == ["flywheel", "flywheel-plain", "identity-1"]


def test_users_are_split_by_their_names_once_every_replica_is_ready_for_both_arms(standings: Standings) -> None:
    with writing(standings.database) as session:
        trial = made_experiment(session)
    standings.refresh()
    for name in ("flywheel", "flywheel-plain"):
        standings.mark_all("identity-1")
        assert standings.adapters_of(name) == {"identity-1"}
        standings.mark_all("identity-1", "lora-1")
        for user in USERS:
            target = standings.live.target(name, unit=user)
            assert target.arm == trial.assignment().arm_of(user)
            assert target.adapter == (trial.challenger if target.arm == "challenger" else trial.champion)
            assert target.experiment_id == trial.id
        assert standings.adapters_of(name) == {"identity-1", "lora-1"}


def test_who_asked_is_remembered_within_bounds(standings: Standings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.live.MOST_TARGETS", 10)
    with writing(standings.database) as session:
        made_adapter(session, "identity-1")
    standings.refresh()
    for number in range(25):
        for unit in (f"user-{number}", "x" * 1000 + str(number)):
            assert standings.live.target("flywheel", unit=unit).adapter == "identity-1"
    assert sorted(unit for _, unit, _, _ in standings.live._targets) == [f"user-{number}" for number in range(20, 25)]


def test_users_who_are_held_out_stay_with_the_base_model_and_out_of_experiments(
    database: Database, tmp_path: Path
) -> None:
    standings = Standings(load_settings(home=tmp_path, serving={"holdout_share": 0.3}), database)
    with writing(database) as session:
        promoted(session, made_experiment(session, verdict="SHIP"))
        made_experiment(session, champion="lora-1", challenger=made_adapter(session, "lora-2").name)
    standings.refresh()
    standings.mark_all("identity-1", "lora-1", "lora-2")
    targets = [standings.live.target("flywheel", unit=f"user-{number}") for number in range(1000)]
    held_out = [target for target in targets if target.arm == "holdout"]
    assert 250 < len(held_out) < 350
    assert {(target.adapter, target.experiment_id) for target in held_out} == {("identity-1", None)}
    others = {(target.adapter, target.arm) for target in targets if target not in held_out}
    assert others == {("lora-1", "champion"), ("lora-2", "challenger")}


def test_a_shadow_changes_nobodys_answer_and_asks_the_challenger_about_its_share(standings: Standings) -> None:
    with writing(standings.database) as session:
        made_experiment(session, mode="shadow", traffic_share=0.25)
    standings.refresh()
    standings.mark_all("identity-1", "lora-1")
    targets = [standings.live.target("flywheel", unit=f"user-{number}") for number in range(1000)]
    assert {(target.adapter, target.arm) for target in targets} == {("identity-1", None)}
    shadowed = [target for target in targets if target.shadow == "lora-1"]
    assert 200 < len(shadowed) < 300
    standings.mark_all("identity-1")
    assert {standings.live.target("flywheel", unit=f"user-{number}").shadow for number in range(100)} == {None}


def test_both_answers_are_shown_only_to_those_who_can_pick(standings: Standings) -> None:
    with writing(standings.database) as session:
        made_experiment(session, mode="interleaved", traffic_share=0.9)
    standings.refresh()
    standings.mark_all("identity-1", "lora-1")
    users = [f"user-{number}" for number in range(200)]
    assert {standings.live.target("flywheel", unit=user).beside for user in users} == {None}
    picking = [standings.live.target("flywheel", unit=user, picks=True) for user in users]
    assert {target.adapter for target in picking} == {"identity-1"}
    assert 160 < sum(target.beside == "lora-1" for target in picking) < 195


def test_nobody_is_split_while_one_replica_in_service_lacks_the_challenger(standings: Standings) -> None:
    with writing(standings.database) as session:
        made_experiment(session)
    standings.refresh()
    one, two = standings.engines
    standings.pool.mark(one, {"identity-1", "lora-1"})
    standings.pool.mark(two, {"identity-1"})
    assert {standings.live.target("flywheel", unit=user).arm for user in USERS} == {None}
    assert standings.live.not_ready("lora-1") == ["lora-1 is not ready on the engine at http://two"]
    standings.pool.mark(two, set())  # out of service: not asked about, and not waited for
    assert {standings.live.target("flywheel", unit=user).arm for user in USERS} == {"champion", "challenger"}
    standings.pool.mark(one, set())
    assert standings.live.not_ready("lora-1") == ["no engine is ready"]


def test_after_a_promotion_and_a_refresh_everybody_is_answered_by_the_new_champion(standings: Standings) -> None:
    with writing(standings.database) as session:
        epoch = promoted(session, made_experiment(session, verdict="SHIP"))
    standings.mark_all("identity-1", "lora-1")
    standings.refresh()
    assert standings.adapters_of("flywheel") == {"lora-1"}
    target = standings.live.target("flywheel", unit="ann")
    assert (target.epoch, target.arm) == (epoch, None)
    assert standings.live.wanted() == ["lora-1", "identity-1"]


def test_a_prompt_alone_is_tried_on_routed_questions_and_an_adapter_brings_its_own_to_all(standings: Standings) -> None:
    with writing(standings.database) as session:
        made_adapter(session, "identity-1")
        shorter = made_prompt(session)
        trial = made_experiment(session, challenger="identity-1", challenger_prompt=shorter)
    standings.mark_all("identity-1", "lora-1")
    standings.refresh()
    assert standings.variants() == {
        ("champion", "identity-1", SHIPPED_WORDING.version),
        ("challenger", "identity-1", shorter),
    }
    plain = [standings.live.target("flywheel-plain", unit=user) for user in USERS]
    assert {(target.arm, target.experiment_id) for target in plain} == {(None, None)}
    routed = [standings.live.target("flywheel-plain", unit=user, routed=True) for user in USERS]
    assert {target.arm for target in routed} == {"champion", "challenger"}
    with writing(standings.database) as session:
        stop_experiment(session, trial, state="stopped")
        made_experiment(session, challenger_prompt=shorter)
    standings.refresh()
    assert standings.variants() == {
        ("champion", "identity-1", SHIPPED_WORDING.version),
        ("challenger", "lora-1", shorter),
    }
    assert standings.adapters_of("flywheel-plain") == {"identity-1", "lora-1"}


def test_the_live_prompt_outlives_the_base_model_and_held_out_users_keep_the_shipped_one(
    database: Database, tmp_path: Path
) -> None:
    standings = Standings(load_settings(home=tmp_path, serving={"holdout_share": 0.3}), database)
    with writing(database) as session:
        made_adapter(session, "identity-1")
        shorter = made_prompt(session)
        promoted(session, made_experiment(session, verdict="SHIP", challenger_prompt=shorter))
        made_adapter(session, "identity-2", base_model_hash="other")
    standings.refresh()
    assert standings.variants() == {
        ("holdout", "identity-1", SHIPPED_WORDING.version),
        (None, "lora-1", shorter),
    }
    standings.live.base_model = BaseModel(Path(), "other", {})
    standings.refresh()
    assert (standings.live.standing.champion, standings.live.standing.prompt) == ("identity-2", shorter)


def test_a_rollback_ends_the_split(standings: Standings) -> None:
    with writing(standings.database) as session:
        promoted(session, made_experiment(session, verdict="SHIP"))
        made_experiment(session, champion="lora-1", challenger=made_adapter(session, "lora-2").name)
        back, live = Variant("identity-1"), champion(session)
        roll_back(session, tenant="default", alias="flywheel", target=back, live=live, actor="o", reason="r")
    standings.mark_all("identity-1", "lora-1", "lora-2")
    standings.refresh()
    assert standings.adapters_of("flywheel") == {"identity-1"}


def test_a_tester_pins_an_adapter_by_name_and_belongs_to_no_arm(standings: Standings) -> None:
    with writing(standings.database) as session:
        made_experiment(session)
        made_adapter(session, "lora-9")
    standings.mark_all("identity-1", "lora-1")
    standings.refresh()
    target = standings.live.target("lora-1", unit="ann")
    assert (target.adapter, target.arm, target.experiment_id, target.routed) == ("lora-1", None, None, False)
    with pytest.raises(UnknownNameError):
        standings.live.target("lora-9", unit="ann")  # known, but held by no engine


def test_no_more_adapters_are_wanted_than_engines_have_places_for(database: Database, tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path, engine={"max_loras": 3})
    standings = Standings(settings, database)
    with writing(database) as session:
        promoted(session, made_experiment(session, verdict="SHIP"))
        trial = made_experiment(session, verdict="SHIP", champion="lora-1", challenger=made_adapter(session, "l2").name)
        promoted(session, trial)
        made_experiment(session, champion="l2", challenger=made_adapter(session, "l3").name)
    standings.refresh()
    assert standings.live.wanted() == ["l2", "identity-1", "l3"]
    standings.live.ask_for("l0")
    standings.refresh()
    assert standings.live.wanted() == ["l2", "identity-1", "l3"]


def test_an_adapter_that_one_serving_was_asked_to_roll_back_to_is_wanted_by_all(
    standings: Standings, database: Database, tmp_path: Path
) -> None:
    with writing(database) as session:
        made_adapter(session, "identity-1")
    standings.live.ask_for("lora-0")
    another = Standings(load_settings(home=tmp_path), database)
    another.refresh()
    assert another.live.wanted() == ["identity-1", "lora-0"]


def test_requests_in_flight_are_counted_also_when_they_fail(standings: Standings) -> None:
    live = standings.live
    with pytest.raises(RuntimeError), live.speaking("lora-1"), live.speaking("lora-1"):
        assert (live.in_flight("lora-1"), live.in_flight("lora-2")) == (2, 0)
        raise RuntimeError
    assert live.in_flight("lora-1") == 0
