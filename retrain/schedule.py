"""When a turn starts by itself: a cron line gives the next moment, our own table of runs is the queue.

At each moment a run is queued if enough pairs were decided since the last dataset version and no run waits or works.
Two workers on one database queue one run: the check and the insert stand in one transaction that excludes others.
A moment that passes while no worker runs is not made up for.
"""

from __future__ import annotations

from datetime import UTC, datetime

from apscheduler.triggers.cron import CronTrigger
from sqlalchemy import func, text
from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select

from flywheel.database import writing
from flywheel.dataset_versions import latest_dataset_versions
from flywheel.errors import UserError
from flywheel.pairs import PreferencePair
from flywheel.runs import TrainingRun, queue_run
from flywheel.settings import Settings

ACTOR = "schedule"


class Schedule:
    """The cron line and the next moment. Raises UserError when the line is not one."""

    def __init__(self, cron: str | None, *, after: datetime) -> None:
        self._trigger = _trigger(cron) if cron else None
        self.next_at = self._following(after)

    def is_due(self, moment: datetime) -> bool:
        """True once for each moment of the cron line that has come."""
        if self.next_at is None or moment < self.next_at:
            return False
        self.next_at = self._following(moment)
        return True

    def _following(self, moment: datetime) -> datetime | None:
        if self._trigger is None:
            return None
        found: datetime | None = self._trigger.get_next_fire_time(moment, moment)
        return found


def _trigger(cron: str) -> CronTrigger:
    try:
        return CronTrigger.from_crontab(cron, timezone=UTC)
    except ValueError as error:
        raise UserError(
            f"Setting retrain.schedule: {cron!r} is not a cron line ({error}). Example: 0 3 * * * (3:00, UTC)."
        ) from error


def queue_if_worthwhile(database: Engine, settings: Settings) -> TrainingRun | None:
    """Queue a run for the schedule, when there is enough to learn from and nothing is under way."""
    with writing(database) as session:
        if session.get_bind().dialect.name == "postgresql":
            session.execute(text("LOCK TABLE training_run IN SHARE ROW EXCLUSIVE MODE"))
        if _under_way(session) or new_pairs(session, tenant=settings.tenant) < settings.retrain.minimum_pairs:
            return None
        return queue_run(
            session, tenant=settings.tenant, alias=settings.serving.alias, recipe={}, requested_by=ACTOR
        )  # fmt: skip


def new_pairs(session: Session, *, tenant: str) -> int:
    """Pairs decided since the newest dataset version was frozen."""
    newest = latest_dataset_versions(session, tenant=tenant, limit=1)
    query = select(func.count()).where(PreferencePair.tenant == tenant, PreferencePair.state == "decided")
    if newest:
        query = query.where(col(PreferencePair.decided_at) > newest[0].created_at)
    return session.exec(query).one()


def _under_way(session: Session) -> bool:
    query = select(TrainingRun.id).where(col(TrainingRun.state).in_(("queued", "running"))).limit(1)
    return session.exec(query).first() is not None
