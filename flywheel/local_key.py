"""The API key of a command on the appliance's own machine: made when it starts, taken away when it ends.

Whoever may write to the data directory may do everything anyway; so nobody has to paste a key there, and none lies in
a file. FLYWHEEL_API_KEY goes before, and is needed from anywhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError

from flywheel.database import database_exists, open_database, reason_of, writing
from flywheel.errors import DatabaseTroubleError, UserError
from flywheel.keys import create_local_key, remove_local_key
from flywheel.settings import Settings

LONGEST = timedelta(days=30)
"""For one whose program was killed before it could take it away."""


@contextmanager
def local_key(settings: Settings) -> Iterator[str]:
    """The secret; empty where none is needed, or where there is no database yet. Raises UserError."""
    if settings.api_key is not None or not settings.serving.require_keys:
        yield settings.api_key.get_secret_value() if settings.api_key else ""
        return
    url = settings.resolved_database_url
    if not database_exists(url):
        yield ""
        return
    database = open_database(url, checkpoints=False)
    try:
        with writing(database) as session:
            key, secret = create_local_key(session, tenant=settings.tenant, lifetime=LONGEST)
    except (SQLAlchemyError, DatabaseTroubleError) as error:
        database.dispose()
        raise UserError(
            "No key can be made for this command: the records cannot be used from here "
            f"({reason_of(error)}). See to that, or set FLYWHEEL_API_KEY."
        ) from error
    try:
        yield secret
    finally:
        try:
            with writing(database) as session:
                remove_local_key(session, key.id)
        finally:
            database.dispose()
