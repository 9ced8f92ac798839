"""Fewer and smaller indexes on interactions.

Reason: each row is written before and after its answer, so every index is paid for by every request. Nothing looks an
interaction up by its user or adapter alone; most rows have no idempotency key; and an experiment's rows are read whole,
so its index needs no users in random order.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

KEYED = sa.text("idempotency_key IS NOT NULL")
EXPERIMENT = sa.text("experiment_id IS NOT NULL")


def upgrade() -> None:
    for name in ("user", "adapter", "experiment", "idempotency"):
        op.drop_index(f"ix_interaction_{name}", "interaction")
    op.create_index(
        "ix_interaction_idempotency",
        "interaction",
        ["tenant", "idempotency_key"],
        unique=True,
        sqlite_where=KEYED,
        postgresql_where=KEYED,
    )
    op.create_index(
        "ix_interaction_experiment",
        "interaction",
        ["experiment_id"],
        sqlite_where=EXPERIMENT,
        postgresql_where=EXPERIMENT,
    )


def downgrade() -> None:
    for name in ("experiment", "idempotency"):
        op.drop_index(f"ix_interaction_{name}", "interaction")
    op.create_index("ix_interaction_idempotency", "interaction", ["tenant", "idempotency_key"], unique=True)
    op.create_index("ix_interaction_experiment", "interaction", ["experiment_id", "arm", "unit"])
    op.create_index("ix_interaction_adapter", "interaction", ["adapter"])
    op.create_index("ix_interaction_user", "interaction", ["user"])
