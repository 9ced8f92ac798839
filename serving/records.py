"""Opening the records before serving listens: the newest schema, and no row left open by a process that died.

On PostgreSQL several servings may share the records: what another one is answering stays open while its lease runs, and
the one that leads closes it afterwards. A SQLite file has one serving, so whatever is open at its start was left.

Apart from `app.py` because it is quick to import: a database that cannot be reached is said before the heavy libraries
load.
"""

from __future__ import annotations

import logging

from sqlalchemy import Engine

from flywheel.database import migrate, open_database, reading, writing
from flywheel.interactions import close_interrupted
from flywheel.keys import FIRST_KEY, first_key
from flywheel.leases import leases_of_the_dead, release_lease, servings_alive
from flywheel.settings import Settings
from serving.leadership import life_lease

log = logging.getLogger(__name__)


def several_servings(database: Engine) -> bool:
    """Whether other servings may write to the same records: a server can be shared, a SQLite file has one serving."""
    return database.dialect.name != "sqlite"


def open_records(settings: Settings) -> Engine:
    """The database. Raises UserError when it cannot be used."""
    database = open_database(settings.resolved_database_url)
    migrate(database)
    with writing(database) as session:
        release_lease(session, name=life_lease(settings))  # of our predecessor: we have the port
        _tell(close_interrupted(session, alive=servings_alive(session) if several_servings(database) else ()))
    with writing(database) as session:
        secret = (
            first_key(session, tenant=settings.tenant)
            if settings.serving.require_keys and settings.serving.first_key
            else None
        )
    if secret is not None:
        print(FIRST_KEY.format(secret), flush=True)
    return database


def close_after_the_dead(database: Engine) -> None:
    """Close what servings left open whose lease is over."""
    with reading(database) as session:
        dead = leases_of_the_dead(session)
    if dead:
        with writing(database) as session:
            _tell(close_interrupted(session, alive=servings_alive(session)))
            for lease in dead:
                release_lease(session, name=lease.name, holder=lease.holder)


def _tell(closed: int) -> None:
    if closed:
        log.warning("%d interactions were left open by a process that died; they are closed as interrupted", closed)
