"""How an experiment tries its challenger: its mode, a ramp, and the least time.

Reason: a careful operator begins with one user in a hundred, or lets the challenger answer unseen; and users who get
both answers and pick one say more than those who rate one. Experiments from before are splits without a ramp.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "ALTER TABLE experiment ADD COLUMN mode VARCHAR DEFAULT 'split' NOT NULL "
        "CONSTRAINT mode CHECK (mode IN ('split', 'shadow', 'interleaved'))"
    )
    op.add_column("experiment", sa.Column("ramp", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("experiment", sa.Column("step", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("experiment", sa.Column("minimum_hours", sa.Float(), nullable=False, server_default="0"))


def downgrade() -> None:
    for name in ("minimum_hours", "step", "ramp", "mode"):
        op.drop_column("experiment", name)
