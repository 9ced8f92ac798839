"""How many words an answer had, counted when its row is closed.

Reason: whether an answer was empty is a guardrail of experiments. It must neither change when somebody deletes their
words, nor be guessed for rows that never kept any. Rows from before are judged by their answer, as they were.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("interaction", sa.Column("answer_words", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("interaction", "answer_words")
