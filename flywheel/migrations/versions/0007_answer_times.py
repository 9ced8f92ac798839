"""How long an answer took, and its first token, as numbers beside the moments.

Reason: experiments watch the challenger's speed as a mean over users, which every database can take of a number, and
none in the same words of two moments. Rows from before have none, and do not count there.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

COLUMNS = ("answer_seconds", "first_token_seconds")


def upgrade() -> None:
    for name in COLUMNS:
        op.add_column("interaction", sa.Column(name, sa.Float(), nullable=True))


def downgrade() -> None:
    for name in COLUMNS:
        op.drop_column("interaction", name)
