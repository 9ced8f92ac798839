"""Merges: the permission to serve the champion merged into the base weights, and how far that has come.

Reason: an adapter costs an engine a part of its speed for as long as it answers. Which engines ought to run is worked
out from this record by two processes, so it is kept where both see it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "merge",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("adapter", sa.String(), sa.ForeignKey("adapter.name"), nullable=False),
        sa.Column("epoch", sa.String(), sa.ForeignKey("promotion.id"), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("trouble", sa.Text()),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("serving_since", sa.DateTime(timezone=True)),
        sa.Column("withdrawn_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint("state IN ('asked', 'written', 'serving', 'failed')", name="state"),
    )


def downgrade() -> None:
    op.drop_table("merge")
