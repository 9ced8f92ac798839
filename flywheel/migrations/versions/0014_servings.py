"""Which serving answers: written with the row that says it was asked.

Reason: several servings may share the records, and one that starts must not close as interrupted what another one is
answering. Rows from before name none; those that are open were left by a process that ended.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("interaction", sa.Column("serving", sa.String()))


def downgrade() -> None:
    op.drop_column("interaction", "serving")
