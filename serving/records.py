"""Opening the records before serving listens: the newest schema, and no row left open by a process that died.

Apart from `app.py` because it is quick to import: a database that cannot be reached is said before the heavy libraries
load.
"""

from __future__ import annotations

import logging

from sqlalchemy import Engine

from flywheel.database import migrate, open_database, writing
from flywheel.interactions import close_interrupted
from flywheel.keys import FIRST_KEY, first_key
from flywheel.settings import Settings

log = logging.getLogger(__name__)


def open_records(settings: Settings) -> Engine:
    """The database. Raises UserError when it cannot be used."""
    database = open_database(settings.resolved_database_url)
    migrate(database)
    with writing(database) as session:
        closed = close_interrupted(session)
    if closed:
        log.warning("%d interactions were open when the last process ended; they are closed as interrupted", closed)
    with writing(database) as session:
        secret = (
            first_key(session, tenant=settings.tenant)
            if settings.serving.require_keys and settings.serving.first_key
            else None
        )
    if secret is not None:
        print(FIRST_KEY.format(secret), flush=True)
    return database
