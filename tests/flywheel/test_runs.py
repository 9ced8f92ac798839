from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import Engine, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from flywheel.audit import AuditEntry
from flywheel.database import now, reading, writing
from flywheel.errors import ConflictError, NotFoundError
from flywheel.runs import (
    TrainingRun,
    add_event,
    cancel_run,
    claim_run,
    end_run,
    latest_runs,
    queue_run,
    run_events,
    training_run,
    update_run,
)


def queued(session: Session, requested_by: str = "ann") -> str:
    return queue_run(session, tenant="default", alias="flywheel", recipe={"epochs": 2}, requested_by=requested_by).id


def the_worker_dies(session: Session) -> None:
    session.execute(update(TrainingRun).values(leased_until=now() - timedelta(seconds=1)))


def test_the_oldest_waiting_run_is_claimed_once(database: Engine) -> None:
    with writing(database) as session:
        first, second = queued(session), queued(session)
    claimed = []
    for worker in ("w1", "w2", "w3"):
        with writing(database) as session:
            run = claim_run(session, worker=worker)
            claimed.append(run.id if run else None)
    assert claimed == [first, second, None]


def test_a_run_left_by_a_dead_worker_is_claimed_again_and_the_dead_one_can_write_no_more(database: Engine) -> None:
    with writing(database) as session:
        run_id = queued(session)
        claim_run(session, worker="w1")
        started = training_run(session, run_id, tenant="default").started_at
        the_worker_dies(session)
    with writing(database) as session:
        run = claim_run(session, worker="w2")
        assert run is not None
        assert (run.id, run.leased_by, run.started_at) == (run_id, "w2", started)
    with writing(database) as session, pytest.raises(ConflictError, match="no longer held by w1"):
        update_run(session, run_id, worker="w1", stage="train")


def test_writing_progress_renews_the_lease(database: Engine) -> None:
    with writing(database) as session:
        run_id = queued(session)
        claim_run(session, worker="w1")
        the_worker_dies(session)
        update_run(session, run_id, worker="w1", progress={"done": 1, "total": 10})
    with writing(database) as session:
        assert claim_run(session, worker="w2") is None
        assert training_run(session, run_id, tenant="default").progress == {"done": 1, "total": 10}


def test_cancelling_stops_a_running_run_at_its_next_write(database: Engine) -> None:
    with writing(database) as session:
        run_id = queued(session)
        claim_run(session, worker="w1")
    with writing(database) as session:
        cancel_run(session, training_run(session, run_id, tenant="default"), actor="olga")
    with writing(database) as session, pytest.raises(ConflictError, match="cancelled"):
        update_run(session, run_id, worker="w1", stage="gate")
    with writing(database) as session:
        assert claim_run(session, worker="w2") is None
        entry = session.exec(select(AuditEntry).order_by(col(AuditEntry.position).desc())).first()
        assert entry is not None
        assert (entry.actor, entry.act, entry.subject) == ("olga", "cancel_run", run_id)


def test_an_ended_run_is_not_cancelled(database: Engine) -> None:
    with writing(database) as session:
        run_id = queued(session)
        claim_run(session, worker="w1")
        end_run(session, run_id, worker="w1", state="failed", error="no memory")
    with writing(database) as session, pytest.raises(ConflictError, match="already ended: failed"):
        cancel_run(session, training_run(session, run_id, tenant="default"), actor="olga")


def test_success_without_an_adapter_is_refused_by_the_database(database: Engine) -> None:
    with pytest.raises(IntegrityError), writing(database) as session:
        run_id = queued(session)
        claim_run(session, worker="w1")
        end_run(session, run_id, worker="w1", state="succeeded")


def test_events_are_read_in_their_order_and_runs_newest_first(database: Engine) -> None:
    with writing(database) as session:
        first, second = queued(session), queued(session)
        for text in ("frozen", "trained", "published"):
            add_event(session, first, text)
    with reading(database) as session:
        assert [event.text for event in run_events(session, first)] == ["frozen", "trained", "published"]
        assert [run.id for run in latest_runs(session, tenant="default")] == [second, first]
        with pytest.raises(NotFoundError):
            training_run(session, first, tenant="acme")


def test_asking_for_a_run_is_audited_under_the_name_of_who_asked(database: Engine) -> None:
    with writing(database) as session:
        run_id = queued(session, requested_by="scheduler")
        entry = session.exec(select(AuditEntry)).one()
    assert (entry.actor, entry.act, entry.subject) == ("scheduler", "queue_run", run_id)
