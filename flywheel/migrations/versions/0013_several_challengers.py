"""Several challengers at once: the users who take part in an experiment, and where among all users they begin.

Reason: two challengers may be tried in the same weeks, each on users of its own, so that nobody is ever in two
experiments. Those from before had all users, from the first one on.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

RUNNING = sa.text("state = 'running'")


def upgrade() -> None:
    op.execute(
        "ALTER TABLE experiment ADD COLUMN participants FLOAT DEFAULT 1 NOT NULL "
        "CONSTRAINT participants CHECK (participants > 0 AND participants <= 1)"
    )
    op.execute(
        "ALTER TABLE experiment ADD COLUMN users_from FLOAT DEFAULT 0 NOT NULL "
        "CONSTRAINT users_from CHECK (users_from >= 0 AND users_from < 1)"
    )
    op.drop_index("one_running_per_alias", "experiment")
    _unique("one_running_per_place", ["alias", "users_from"])


def downgrade() -> None:
    op.drop_index("one_running_per_place", "experiment")
    _unique("one_running_per_alias", ["alias"])
    for name in ("users_from", "participants"):
        op.drop_column("experiment", name)


def _unique(name: str, columns: list[str]) -> None:
    op.create_index(name, "experiment", columns, unique=True, sqlite_where=RUNNING, postgresql_where=RUNNING)
