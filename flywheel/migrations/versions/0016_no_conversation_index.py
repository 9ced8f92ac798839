"""Interactions of a SQLite file without their index by conversation.

Reason: its keys come in no order, so each row of a commit touched a page of its own there; that cost a row's commit as
much as all else about the row. Serving remembers the last turn of each conversation instead. On PostgreSQL, which
several servings may share, the index stays.
"""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.drop_index("ix_interaction_conversation", "interaction")


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.create_index("ix_interaction_conversation", "interaction", ["tenant", "conversation"])
