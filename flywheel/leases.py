"""Lease: a name that one holder has for a while. Who holds it renews it; who dies is succeeded when its time is over.

`engines` is held by the one serving that changes engines (serving/leadership.py). `serving HOST:PORT` is held by each
serving while it lives: rows that it left open are closed once that is over. `adapter NAME` is held by an operator's
wish: engines keep that adapter loaded although the records alone do not call for it.

Invariant: the database decides, in one statement, so two never hold a name at once. The moments are the holders' own:
the clocks of machines that share a database have to agree, as they have to for training runs.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import delete, or_
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Field, Session, SQLModel, col, select

from flywheel.database import UtcTime, now

ENGINES = "engines"
ADAPTER = "adapter "
SERVING = "serving "


class Lease(SQLModel, table=True):
    __tablename__ = "lease"

    name: str = Field(primary_key=True)
    holder: str
    expires_at: datetime = Field(sa_type=UtcTime)


def take_lease(session: Session, *, name: str, holder: str, seconds: float) -> bool:
    """Acquire or renew; False while it is somebody else's."""
    moment = now()
    insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    given = {"holder": holder, "expires_at": moment + timedelta(seconds=seconds)}
    statement = insert(Lease).values(name=name, **given)
    statement = statement.on_conflict_do_update(
        index_elements=[col(Lease.name)],
        set_=given,
        where=or_(col(Lease.holder) == holder, col(Lease.expires_at) <= moment),
    )
    return session.execute(statement.returning(col(Lease.name))).first() is not None


def release_lease(session: Session, *, name: str, holder: str | None = None) -> None:
    """Let go of it; somebody else's stays. Without a holder it goes, whoever has it."""
    theirs = [] if holder is None else [col(Lease.holder) == holder]
    session.execute(delete(Lease).where(col(Lease.name) == name, *theirs))


def servings_alive(session: Session) -> list[str]:
    """The holders of servings' leases that are not over."""
    query = select(Lease.holder).where(col(Lease.name).startswith(SERVING), col(Lease.expires_at) > now())
    return list(session.exec(query))


def leases_of_the_dead(session: Session) -> list[Lease]:
    """Those of servings that are over, and that nobody let go of."""
    query = select(Lease).where(col(Lease.name).startswith(SERVING), col(Lease.expires_at) <= now())
    return list(session.exec(query))


def adapters_asked_for(session: Session) -> list[str]:
    """The adapters that somebody wants to have loaded, the newest wish first."""
    query = select(Lease.name).where(col(Lease.name).startswith(ADAPTER), col(Lease.expires_at) > now())
    return [name.removeprefix(ADAPTER) for name in session.exec(query.order_by(col(Lease.expires_at).desc()))]
