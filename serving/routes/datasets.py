"""/v1/datasets: the frozen dataset versions and their quality reports. Their rows are in Parquet files, not here."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from flywheel.database import reading
from flywheel.dataset_versions import dataset_version, latest_dataset_versions
from serving.appliance import Appliance, appliance_of

router = APIRouter(tags=["datasets"])
Holder = Annotated[Appliance, Depends(appliance_of)]


@router.get("/v1/datasets")
def list_datasets(appliance: Holder) -> dict[str, Any]:
    """Newest first."""
    with reading(appliance.database) as session:
        rows = latest_dataset_versions(session, tenant=appliance.tenant)
    return {"data": [row.model_dump() for row in rows]}


@router.get("/v1/datasets/{name}")
def one_dataset(name: str, appliance: Holder) -> dict[str, Any]:
    """One version with its report."""
    with reading(appliance.database) as session:
        return dataset_version(session, name, tenant=appliance.tenant).model_dump()
