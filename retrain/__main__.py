"""`python -m retrain`: the worker. It ends on SIGTERM or SIGINT, with its child, and leaves its run to the next one."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from flywheel.base_model import resolve_base_model
from flywheel.database import migrate, open_database
from flywheel.errors import FlywheelError
from flywheel.settings import load_settings
from retrain.gate_prompts import gate_prompts
from retrain.recipe import read_recipe
from retrain.worker import Worker, log


def open_worker() -> Worker:
    """Everything that can be wrong is found here, before the first run. Raises UserError."""
    settings = load_settings()
    resolve_base_model(settings.base_model_path)
    read_recipe(settings.retrain.recipe, overrides={}, max_rank=settings.engine.max_lora_rank)
    gate_prompts(settings)
    database = open_database(settings.resolved_database_url, checkpoints=False)
    migrate(database)
    return Worker(settings, database)


def main() -> int:
    try:
        worker = open_worker()
    except FlywheelError as error:
        print(f"retrain: {error}", file=sys.stderr)
        return 1

    def stop(_signal: int, _frame: FrameType | None) -> None:
        worker.stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    log.info("worker waits for runs", worker=worker.name, next_turn_at=str(worker.schedule.next_at or "on request"))
    worker.work_forever()
    log.info("worker ended", worker=worker.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
