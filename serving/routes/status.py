"""GET /v1/status: the appliance at a glance, for `flywheel status`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from sqlmodel import Session, SQLModel, func, select

from flywheel.database import reading
from flywheel.experiments import running_experiments
from flywheel.feedback import RATING, Feedback
from flywheel.interactions import Interaction
from flywheel.pairs import pair_counts
from flywheel.runs import TrainingRun, latest_runs
from serving.appliance import Appliance, appliance_of

router = APIRouter(tags=["status"])
Holder = Annotated[Appliance, Depends(appliance_of)]


@router.get("/v1/status")
def status(appliance: Holder) -> dict[str, Any]:
    """Who is live, the running experiments with their evidence, what there is, the engines, the last run."""
    settings = appliance.settings
    with reading(appliance.database) as session:
        running = running_experiments(session, alias=settings.serving.alias)
        runs = latest_runs(session, tenant=appliance.tenant, limit=1)
        counts = {
            "interactions": _count(session, Interaction, Interaction.tenant == appliance.tenant),
            "ratings": _count(session, Feedback, Feedback.tenant == appliance.tenant, Feedback.name == RATING),
            "runs": _count(session, TrainingRun, TrainingRun.tenant == appliance.tenant),
        }
        pairs = pair_counts(session, tenant=appliance.tenant)
    return {
        "live": appliance.live.live_view(),
        "experiments": [trial.model_dump() for trial in running],
        "counts": counts | {f"pairs_{state}": count for state, count in pairs.items()},
        "engines": _engines(appliance),
        "merge": asdict(merge) if (merge := appliance.live.standing.merge) else None,
        "last_run": runs[0].model_dump() if runs else None,
    }


def _count(session: Session, table: type[SQLModel], *conditions: bool) -> int:
    return session.exec(select(func.count()).select_from(table).where(*conditions)).one()


def _engines(appliance: Appliance) -> list[dict[str, Any]]:
    """Each replica: ready once the live adapter answered its probe there; troubles by adapter, in words."""
    champion = appliance.live.standing.champion
    found = []
    merge = appliance.live.standing.merge
    for engine in appliance.engines.all if merge is not None else appliance.engines.engines:
        adapters = appliance.engines.ready_for(engine)
        watch = appliance.live.watches[engine.url]
        found.append(
            {
                "url": engine.url,
                "ready": champion in adapters,
                "adapters": sorted(adapters),
                "merged": engine in appliance.engines.merged,
                "troubles": dict(watch.troubles),
            }
        )
    return found
