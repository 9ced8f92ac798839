from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError
from sqlmodel import select

from flywheel.audit import AuditEntry
from flywheel.database import now, reading, writing
from flywheel.errors import ConflictError, NotFoundError
from flywheel.experiments import (
    CHALLENGER,
    CHAMPION,
    Experiment,
    arm_of,
    evidence_digest,
    experiment,
    latest_experiments,
    record_evidence,
    running_experiment,
    stop_experiment,
)
from tests.made_records import made_experiment, unstored_experiment


@pytest.mark.parametrize(
    ("salt", "unit", "place"),
    [("exp-1", "user-1", 0.5797495389), ("exp-1", "user-2", 0.7571246903), ("exp-2", "user-1", 0.7099091637)],
)
def test_a_user_falls_where_the_reference_says(salt: str, unit: str, place: float) -> None:
    def arm(share: float) -> str:
        return arm_of(unstored_experiment(salt=salt, traffic_share=share), unit)

    assert arm(place - 1e-9) == CHAMPION
    assert arm(place + 1e-9) == CHALLENGER


def test_the_share_of_challenged_users_is_the_traffic_share() -> None:
    trial = unstored_experiment(traffic_share=0.2)
    challenged = sum(arm_of(trial, f"user-{n}") == CHALLENGER for n in range(10_000))
    assert 1900 < challenged < 2100


def test_a_second_experiment_for_an_alias_is_refused_and_another_alias_may_have_its_own(database: Engine) -> None:
    with writing(database) as session:
        first = made_experiment(session)
    with writing(database) as session, pytest.raises(ConflictError, match=f"{first.id} already runs"):
        made_experiment(session)
    with writing(database) as session:
        made_experiment(session, alias="other")
        stop_experiment(session, session.get_one(Experiment, first.id), state="rejected")
        made_experiment(session)


def test_the_database_itself_allows_one_running_experiment_per_alias(database: Engine) -> None:
    with writing(database) as session:
        first = made_experiment(session)
    with pytest.raises(IntegrityError), writing(database) as session:
        session.add(Experiment(**(first.model_dump() | {"id": "exp-2"})))


@pytest.mark.parametrize("values", [{"challenger": "identity-1"}, {"traffic_share": 1.0}, {"traffic_share": 0.0}])
def test_an_experiment_that_compares_nothing_is_refused_by_the_database(
    database: Engine, values: dict[str, Any]
) -> None:
    with pytest.raises(IntegrityError), writing(database) as session:
        made_experiment(session, **values)


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
        assert running_experiment(session, alias="flywheel") is None


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
