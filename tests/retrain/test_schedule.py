from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy.engine import Engine

from flywheel.database import now, reading, writing
from flywheel.dataset_versions import DatasetVersion
from flywheel.errors import UserError
from flywheel.runs import latest_runs, queue_run
from flywheel.settings import Settings
from retrain.schedule import Schedule, new_pairs, queue_if_worthwhile

EVENING = datetime(2026, 3, 1, 22, 30, tzinfo=UTC)


def test_a_moment_is_due_once() -> None:
    schedule = Schedule("0 3 * * *", after=EVENING)
    night = datetime(2026, 3, 2, 3, 0, tzinfo=UTC)
    assert schedule.next_at == night
    assert [schedule.is_due(moment) for moment in (EVENING, night, night)] == [False, True, False]
    assert schedule.next_at == datetime(2026, 3, 3, 3, 0, tzinfo=UTC)


def test_without_a_cron_line_nothing_is_ever_due() -> None:
    assert not Schedule(None, after=EVENING).is_due(datetime(2030, 1, 1, tzinfo=UTC))


def test_a_wrong_cron_line_is_one_clear_line() -> None:
    with pytest.raises(UserError, match=r"retrain\.schedule: 'at night' is not a cron line"):
        Schedule("at night", after=EVENING)


@pytest.fixture
def settings(settings_for: Callable[..., Settings], tmp_path: Path) -> Settings:
    return settings_for(tmp_path, minimum_pairs=20)


def test_enough_new_pairs_queue_one_run_and_no_second(
    records: Engine, settings: Settings, twenty_pairs: list[str]
) -> None:
    run = queue_if_worthwhile(records, settings)
    assert run is not None
    assert (run.state, run.requested_by) == ("queued", "schedule")
    assert queue_if_worthwhile(records, settings) is None
    with reading(records) as session:
        assert [found.id for found in latest_runs(session, tenant="default")] == [run.id]


def test_too_few_pairs_queue_nothing(
    records: Engine, settings_for: Callable[..., Settings], tmp_path: Path, twenty_pairs: list[str]
) -> None:
    assert queue_if_worthwhile(records, settings_for(tmp_path, minimum_pairs=21)) is None


def test_pairs_of_the_last_dataset_version_are_not_new(
    records: Engine, settings: Settings, twenty_pairs: list[str], add_pair: Callable[..., str]
) -> None:
    with writing(records) as session:
        version = DatasetVersion(
            name="ds-1", content_hash="1", folder="datasets/ds-1", train_rows=18, validation_rows=2, report={},
            created_at=now(),
        )  # fmt: skip
        session.add(version)
    assert queue_if_worthwhile(records, settings) is None
    add_pair("A new one?", "Yes [1].", "Thanks!")
    with reading(records) as session:
        assert new_pairs(session, tenant="default") == 1


def test_a_run_asked_for_by_hand_holds_the_schedule_back(
    records: Engine, settings: Settings, twenty_pairs: list[str]
) -> None:
    with writing(records) as session:
        queue_run(session, tenant="default", alias="flywheel", recipe={}, requested_by="Ada")
    assert queue_if_worthwhile(records, settings) is None
