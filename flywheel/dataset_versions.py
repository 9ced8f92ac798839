"""DatasetVersion: an immutable, content-hashed set of preference pairs, frozen to Parquet for training.

The name carries the hash of its rows, so the same pairs always give the same version. `DatasetRow` keeps which pair
went into which split: the link that lineage and forgetting follow. The Parquet files are written by retrain
(`retrain/freeze.py`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint
from sqlmodel import Field, Session, SQLModel, col, select

from flywheel.database import JsonOf, UtcTime
from flywheel.errors import NotFoundError


class DatasetVersion(SQLModel, table=True):
    __tablename__ = "dataset_version"

    name: str = Field(primary_key=True)
    """`ds-` and the first twelve digits of `content_hash`."""
    tenant: str = "default"
    content_hash: str = Field(unique=True)
    folder: str
    """Below FLYWHEEL_HOME; one Parquet file per split."""
    train_rows: int
    validation_rows: int
    report: dict[str, Any] = Field(sa_type=JsonOf(dict[str, Any]))
    """Quality report: pairs read, exact duplicates dropped, rows too long, judgments by source, lengths."""
    created_at: datetime = Field(sa_type=UtcTime)


class DatasetRow(SQLModel, table=True):
    __tablename__ = "dataset_row"
    __table_args__ = (CheckConstraint("split IN ('train', 'validation')", name="split"),)

    dataset: str = Field(primary_key=True, foreign_key="dataset_version.name", ondelete="CASCADE")
    pair_id: str = Field(primary_key=True, foreign_key="preference_pair.id", ondelete="CASCADE", index=True)
    split: str


def dataset_version(session: Session, name: str, *, tenant: str) -> DatasetVersion:
    """One version. Raises NotFoundError, also when it belongs to another tenant."""
    found = session.get(DatasetVersion, name)
    if found is None or found.tenant != tenant:
        raise NotFoundError(f"No dataset version {name!r} is known here.")
    return found


def latest_dataset_versions(session: Session, *, tenant: str, limit: int = 50) -> list[DatasetVersion]:
    """Newest first."""
    query = select(DatasetVersion).where(DatasetVersion.tenant == tenant)
    return list(session.exec(query.order_by(col(DatasetVersion.created_at).desc()).limit(limit)))


def pair_ids_of(session: Session, dataset: str, *, split: str | None = None) -> list[str]:
    """The pairs a version was frozen from."""
    query = select(DatasetRow.pair_id).where(DatasetRow.dataset == dataset)
    if split is not None:
        query = query.where(DatasetRow.split == split)
    return list(session.exec(query.order_by(col(DatasetRow.pair_id))))
