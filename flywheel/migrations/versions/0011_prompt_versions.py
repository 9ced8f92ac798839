"""Prompt versions, and an experiment, a promotion and a candidate that name theirs.

Reason: what answers is an adapter with a wording of the prompts, and another wording is tried, promoted and taken back
as an adapter is. Null means the shipped wording, so every row from before says what was true. Champion and challenger
may now be one adapter with two prompts, so the check that forbade it is replaced.

SQLite cannot change a check, and its recipe (a new table, renamed) wants foreign keys off, which no transaction may do.
So the table is dropped and made again under deferred keys: those that point at its rows count as broken until they are
back, in the same transaction.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

ONE_ADAPTER = "CONSTRAINT two_adapters CHECK (champion <> challenger)"
ONE_VARIANT = (
    "CONSTRAINT two_variants CHECK "
    "(champion <> challenger OR coalesce(champion_prompt, '') <> coalesce(challenger_prompt, ''))"
)
NAMED = {"experiment": ("champion_prompt", "challenger_prompt"), "promotion": ("prompt", "previous_prompt")}


def upgrade() -> None:
    op.create_table(
        "prompt_version",
        sa.Column("version", sa.String(), primary_key=True),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("wording", sa.JSON(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    _make_append_only("prompt_version")
    for table, names in NAMED.items():
        for name in names:
            op.execute(f"ALTER TABLE {table} ADD COLUMN {name} VARCHAR REFERENCES prompt_version (version)")
    op.add_column("candidate", sa.Column("prompt_version", sa.String(), nullable=True))
    _recheck(ONE_ADAPTER, ONE_VARIANT)


def downgrade() -> None:
    _recheck(ONE_VARIANT, ONE_ADAPTER)
    op.drop_column("candidate", "prompt_version")
    for table, names in NAMED.items():
        for name in names:
            op.drop_column(table, name)
    op.drop_table("prompt_version")


def _recheck(old: str, new: str) -> None:
    """Put one check of `experiment` in the place of another. Fails where a row does not hold to the new one."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"ALTER TABLE experiment DROP {old.partition(' CHECK')[0]}, ADD {new}")
        return
    run = op.get_bind().exec_driver_sql
    made = [sql for (sql,) in run("SELECT sql FROM sqlite_master WHERE tbl_name = 'experiment' AND sql IS NOT NULL")]
    made.sort(key=lambda sql: not sql.startswith("CREATE TABLE"))
    if old not in made[0]:
        raise RuntimeError(f"experiment has no {old}")
    run("PRAGMA defer_foreign_keys = ON")
    run("CREATE TEMPORARY TABLE kept AS SELECT * FROM experiment")
    run("DROP TABLE experiment")
    for sql in made:
        run(sql.replace(old, new))
    run("INSERT INTO experiment SELECT * FROM kept")
    run("DROP TABLE kept")


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
