"""Alembic's entry: runs the migrations on the engine that `flywheel.database.migrate` passes in."""

from __future__ import annotations

from alembic import context
from sqlmodel import SQLModel

import flywheel.records  # noqa: F401  (fills the metadata)

engine = context.config.attributes["engine"]
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=SQLModel.metadata, render_as_batch=True, compare_type=True)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
