"""`python -m retrain.merge BASE ADAPTER TARGET [DTYPE]`: the base weights with an adapter merged into them.

Run as a process of its own by the worker (`merge_weights`), which so never loads a training library. The target appears
whole, by a rename: a folder in Hugging Face's format, with the base model's tokenizer and chat template.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from flywheel.adapter_files import flush
from flywheel.adapter_tensors import WEIGHTS
from flywheel.base_model import DESCRIBING_FILES
from flywheel.errors import UserError

TAKEN_ALONG = (*(name for name in DESCRIBING_FILES if name != "config.json"), "generation_config.json", "LICENSE")


def merge_weights(base: Path, adapter: Path, target: Path, *, dtype: str | None, threads: int) -> None:
    """Write `target` unless it is there. Other targets beside it, of adapters that were live once, are removed.

    `dtype` is the one that the engine computes in; without one, the base weights' own. Raises UserError.
    """
    if target.is_dir():
        return
    if not (adapter / WEIGHTS).is_file():
        raise UserError(f"The weights of {adapter.name} cannot be merged: its folder {adapter} holds none.")
    target.parent.mkdir(parents=True, exist_ok=True)
    for earlier in target.parent.iterdir():
        shutil.rmtree(earlier)
    order = [str(base), str(adapter), str(target), *([dtype] if dtype else [])]
    environment = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "retrain.merge", *order],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        reason = lines[-1] if lines else f"the process ended with {done.returncode} and said nothing"
        raise UserError(f"The weights of {adapter.name} cannot be merged: {reason}")


def _write(base: Path, adapter: Path, target: Path, dtype: str) -> None:
    from peft import PeftModel  # noqa: PLC0415  seconds to import, and only the child needs them
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True)  # refuses NaN
    with tempfile.TemporaryDirectory(prefix=".merging-", dir=target.parent) as scratch:
        folder = Path(scratch) / "merged"
        merged.save_pretrained(folder)
        for file in (base / name for name in TAKEN_ALONG):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
        for path in (*folder.iterdir(), folder):
            flush(path)
        folder.rename(target)
        flush(target.parent)


if __name__ == "__main__":
    base, adapter, target = (Path(argument) for argument in sys.argv[1:4])
    _write(base, adapter, target, dtype=sys.argv[4] if len(sys.argv) > 4 else "auto")
