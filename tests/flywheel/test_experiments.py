from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError
from sqlmodel import select

from flywheel.audit import AuditEntry
from flywheel.database import now, reading, writing
from flywheel.errors import ConflictError, NotFoundError, UserError
from flywheel.experiment_plan import make_plan
from flywheel.experiments import (
    CHALLENGER,
    CHAMPION,
    Experiment,
    climb,
    evidence_digest,
    experiment,
    latest_experiments,
    record_evidence,
    running_experiments,
    stop_experiment,
)
from flywheel.settings import RetrainSettings
from tests.made_records import made_experiment, made_prompt, unstored_experiment


@pytest.mark.parametrize(
    ("salt", "unit", "place"),
    [("exp-1", "user-1", 0.5797495389), ("exp-1", "user-2", 0.7571246903), ("exp-2", "user-1", 0.7099091637)],
)
def test_a_user_falls_where_the_reference_says(salt: str, unit: str, place: float) -> None:
    def arm(share: float) -> str | None:
        return unstored_experiment(salt=salt, traffic_share=share).assignment().arm_of(unit)

    assert arm(place - 1e-9) == CHAMPION
    assert arm(place + 1e-9) == CHALLENGER


def test_the_share_of_challenged_users_is_the_traffic_share() -> None:
    trial = unstored_experiment(traffic_share=0.2).assignment()
    challenged = sum(trial.arm_of(f"user-{n}") == CHALLENGER for n in range(10_000))
    assert 1900 < challenged < 2100


def test_a_ramp_moves_nobody_from_one_arm_to_the_other_and_keeps_the_arms_in_proportion() -> None:
    trial = unstored_experiment(traffic_share=0.3, ramp=[0.01, 0.1])
    users = [f"user-{n}" for n in range(20_000)]
    met: dict[str, set[str | None]] = {user: set() for user in users}
    for step, share in enumerate([0.01, 0.1, 0.3]):
        trial.step = step
        arms = Counter(trial.assignment().arm_of(user) for user in users)
        assert trial.share == share
        assert arms[CHALLENGER] == pytest.approx(20_000 * share, rel=0.2)
        assert arms[CHAMPION] == pytest.approx(arms[CHALLENGER] * 0.7 / 0.3, rel=0.15)
        for user in users:
            met[user].add(trial.assignment().arm_of(user))
    assert all(len(arms - {None}) == 1 for arms in met.values())
    assert arms[None] == 0  # at the top of the ramp everybody is in


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ({"ramp": [0.1, 0.05]}, "must climb"),
        ({"ramp": [0.5]}, "below traffic_share"),
        ({"ramp": [0.0]}, "greater than 0"),
        ({"mode": "secret"}, "mode"),
        ({"minimum_hours": -1}, "minimum_hours"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused_in_words(plan: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        make_plan(RetrainSettings(), plan)


def test_a_plan_has_the_settings_where_nothing_else_is_said() -> None:
    plan = make_plan(RetrainSettings(minimum_hours=24, ramp=[0.01]), {"mode": "shadow", "traffic_share": 0.2})
    assert (plan.mode, plan.traffic_share, plan.ramp, plan.minimum_hours) == ("shadow", 0.2, [0.01], 24)


def test_each_step_up_is_audited(database: Engine) -> None:
    with writing(database) as session:
        climb(session, made_experiment(session, ramp=[0.01, 0.05]))
    with reading(database) as session:
        entry = session.exec(select(AuditEntry).where(AuditEntry.act == "ramp_experiment")).one()
        assert (entry.actor, entry.details) == ("system", {"share": 0.05})
        assert session.get_one(Experiment, entry.subject).share == 0.05


def test_a_second_experiment_for_an_alias_is_refused_and_another_alias_may_have_its_own(database: Engine) -> None:
    with writing(database) as session:
        first = made_experiment(session)
    with writing(database) as session, pytest.raises(ConflictError, match=f"{first.id} already runs"):
        made_experiment(session)
    with writing(database) as session:
        made_experiment(session, alias="other")
        stop_experiment(session, session.get_one(Experiment, first.id), state="rejected")
        made_experiment(session)


@pytest.mark.parametrize(
    "values", [{"challenger": "identity-1"}, {"traffic_share": 1.0}, {"traffic_share": 0.0}, {"mode": "secret"}]
)
def test_an_experiment_that_compares_nothing_is_refused_by_the_database(
    database: Engine, values: dict[str, Any]
) -> None:
    with writing(database) as session:
        trial = made_experiment(session)
        stop_experiment(session, trial, state="stopped")
    with pytest.raises(IntegrityError), writing(database) as session:
        session.add(Experiment(**(trial.model_dump() | {"id": "exp-2"} | values)))


def test_one_adapter_with_two_prompts_is_something_to_compare(database: Engine) -> None:
    with writing(database) as session:
        shorter = made_prompt(session)
        with pytest.raises(ConflictError, match="cannot challenge itself"):
            made_experiment(session, challenger="identity-1")
        opened = made_experiment(session, challenger="identity-1", challenger_prompt=shorter)
        assert (opened.assignment().prompts_alone, opened.challenger_prompt) == (True, shorter)
        entry = session.exec(select(AuditEntry).where(AuditEntry.act == "open_experiment")).one()
        assert (entry.details["champion_prompt"], entry.details["challenger_prompt"]) == (None, shorter)


def test_evidence_of_an_ended_experiment_is_never_changed(database: Engine) -> None:
    with writing(database) as session:
        trial = made_experiment(session, verdict="HOLD")
        stop_experiment(session, trial, state="stopped")
    with writing(database) as session:
        record_evidence(session, trial, {"verdict": "SHIP"})
    with reading(database) as session:
        found = experiment(session, trial.id, tenant="default")
        assert found.evidence == {"verdict": "HOLD"}
        assert found.evidence_hash == evidence_digest({"verdict": "HOLD"})


def test_an_experiment_ends_once(database: Engine) -> None:
    with writing(database) as session:
        trial = made_experiment(session)
        stop_experiment(session, trial, state="promoted")
        with pytest.raises(ConflictError, match="already ended"):
            stop_experiment(session, trial, state="rejected")
        assert running_experiments(session, alias="flywheel") == []


def test_opening_is_audited_and_other_tenants_see_nothing(database: Engine) -> None:
    with writing(database) as session:
        trial = made_experiment(session, actor="worker")
    with reading(database) as session:
        acts = [(entry.actor, entry.act, entry.subject) for entry in session.exec(select(AuditEntry))]
        assert ("worker", "open_experiment", trial.id) in acts
        assert latest_experiments(session, tenant="acme") == []
        with pytest.raises(NotFoundError):
            experiment(session, trial.id, tenant="acme")


def test_the_digest_tells_any_change_of_the_evidence() -> None:
    evidence = {"verdict": "SHIP", "users": {"champion": 100}, "created_at": now().isoformat()}
    assert evidence_digest(evidence) == evidence_digest(dict(reversed(evidence.items())))
    assert evidence_digest(evidence) != evidence_digest(evidence | {"users": {"champion": 101}})
