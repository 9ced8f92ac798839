"""Approvals as rows of their own, and how far each receiver of webhooks has been told.

Reason: where two people have to agree, the first approval must outlive its request, bound to the evidence it was given
for; it is evidence itself, so the database refuses to change it. Webhooks are read off the audit: what is kept is the
position that a receiver has.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "approval",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("experiment_id", sa.String(), sa.ForeignKey("experiment.id"), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("evidence_hash", sa.String(), nullable=False),
        sa.Column("override", sa.Boolean(), nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.UniqueConstraint("experiment_id", "evidence_hash", "actor", name="one_approval_per_person"),
    )
    op.create_table(
        "webhook_receiver",
        sa.Column("url_hash", sa.String(), primary_key=True),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("failing_since", moment, nullable=True),
    )
    _make_append_only("approval")


def downgrade() -> None:
    op.drop_table("webhook_receiver")
    op.drop_table("approval")


def _make_append_only(table: str) -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )
        return
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER {table}_no_{change.lower()} BEFORE {change} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        )
