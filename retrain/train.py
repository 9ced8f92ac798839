"""The child process of a run: `python -m retrain.train FOLDER` trains, then answers the gate's prompts.

Data model: FOLDER as `retrain/run_folder.py` tells. Every line on standard output is one JSON object of progress
({"stage", "done", "total", …} or, at the end, {"error": …}); whatever libraries print goes to standard error. The
worker holds the other end: when it is gone, the next line fails and the child ends. An adapter that is found whole is
not trained again.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from flywheel.errors import UserError
from retrain.generate import outcomes_of
from retrain.run_folder import OUTCOMES, mark_trained, read_order, trained_metrics, write_whole
from retrain.trainers import train_adapter


def main(folder: Path) -> int:
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print; only progress may reach the worker

    def report(progress: dict[str, Any]) -> None:
        lines.write(json.dumps(progress) + "\n")
        lines.flush()

    order = read_order(folder)
    torch.set_num_threads(order.threads)
    try:
        if trained_metrics(folder) is None:
            report({"stage": "train", "done": 0, "total": 0})
            metrics = train_adapter(order, folder, lambda progress: report({"stage": "train"} | progress))
            mark_trained(folder, metrics)
        report({"stage": "gate", "done": 0, "total": 2 * len(order.prompts)})
        write_whole(folder / OUTCOMES, outcomes_of(order, folder, report).model_dump_json())
    except UserError as error:
        report({"error": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
