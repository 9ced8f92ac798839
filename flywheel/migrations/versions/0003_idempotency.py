"""The client's idempotency key of a request, and a hash of its body.

Reason: a client that tries again after a broken connection shall get the answer that was made for it, not a second one.
The key is unique for a tenant; a row whose answer never came gives its key back.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("interaction", sa.Column("idempotency_key", sa.String(), nullable=True))
    op.add_column("interaction", sa.Column("body_hash", sa.String(), nullable=True))
    op.create_index("ix_interaction_idempotency", "interaction", ["tenant", "idempotency_key"], unique=True)


def downgrade() -> None:
    op.drop_index("ix_interaction_idempotency", "interaction")
    op.drop_column("interaction", "body_hash")
    op.drop_column("interaction", "idempotency_key")
