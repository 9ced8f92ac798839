"""Alembic's entry: runs the migrations on the engine that `flywheel.database.migrate` passes in.

Serving and the worker may start at the same moment on an empty database: one of them migrates, the other waits.
"""

from __future__ import annotations

from alembic import context
from sqlmodel import SQLModel

import flywheel.records  # noqa: F401  (fills the metadata)

MIGRATING = 0x0F1EE1  # the key of our advisory lock on PostgreSQL; any number that nobody else uses

engine = context.config.attributes["engine"]
with engine.connect().execution_options(sqlite_immediate=True) as connection:
    if engine.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATING})")
    context.configure(connection=connection, target_metadata=SQLModel.metadata, render_as_batch=True, compare_type=True)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
