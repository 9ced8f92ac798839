"""Every choice of a completion, the client's metadata, and whether a row still holds words.

Reason: with n > 1 only the first answer was kept, stored completions are found by their metadata, and `store=false` and
deletion leave a row that counts but says nothing. SQLite gets its check in the column itself: making the table anew
would, by the cascades, empty every table that refers to it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("interaction", sa.Column("choices", sa.JSON(), nullable=True))
    op.add_column("interaction", sa.Column("client_metadata", sa.JSON(), nullable=False, server_default="{}"))
    op.execute(
        "ALTER TABLE interaction ADD COLUMN content VARCHAR DEFAULT 'kept' NOT NULL "
        "CONSTRAINT content CHECK (content IN ('kept', 'withheld', 'deleted'))"
    )
    op.add_column("candidate", sa.Column("choice", sa.Integer(), nullable=True))
    op.add_column("feedback", sa.Column("key", sa.String(), nullable=True))
    op.create_index("ix_feedback_key", "feedback", ["completion_id", "key", "name"], unique=True)


def downgrade() -> None:
    op.drop_index("ix_feedback_key", "feedback")
    op.drop_column("feedback", "key")
    op.drop_column("candidate", "choice")
    for name in ("content", "client_metadata", "choices"):
        op.drop_column("interaction", name)
