"""An interaction's CHECKs on SQLite as alternatives instead of lists.

Reason: SQLite builds the list of an IN anew for each row that it writes, which cost every chat as much as one of its
indexes. Both forms allow the same rows, so the table's text is replaced and nothing is copied or looked through
(sqlite.org/lang_altertable.html, "Making Other Kinds Of Table Schema Changes"). PostgreSQL compiles its lists once.
"""

from __future__ import annotations

import re

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

LISTED = re.compile(r"(status|content) IN \(([^)]*)\)")
READ = sa.text("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = 'interaction'")
REPLACE = sa.text("UPDATE sqlite_schema SET sql = :sql WHERE type = 'table' AND name = 'interaction'")


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name != "sqlite":
        return
    made: str = connection.execute(READ).scalar_one()
    version: int = connection.execute(sa.text("PRAGMA schema_version")).scalar_one()
    connection.execute(sa.text("PRAGMA writable_schema = ON"))
    connection.execute(REPLACE, {"sql": LISTED.sub(_alternatives, made)})
    connection.execute(sa.text(f"PRAGMA schema_version = {version + 1}"))  # every connection reads the schema again
    connection.execute(sa.text("PRAGMA writable_schema = OFF"))


def _alternatives(listed: re.Match[str]) -> str:
    return "(" + " OR ".join(f"{listed[1]} = {word.strip()}" for word in listed[2].split(",")) + ")"


def downgrade() -> None:
    """Nothing: the lists said the same."""
