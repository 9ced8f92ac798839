"""Puts a trained checkpoint into the project: copies it, measures it, writes its model card.

`python -m retrain.starter.publish RUN flywheel/starter/model --seed 0`; RUN is the `--out` folder of the training.
"""

import argparse
import json
import shutil
import sys
import textwrap
from pathlib import Path

from retrain.starter.evaluate import Share, load, measure_drawn, measure_sample, table

CARD = Path(__file__).with_name("card.md")


def card(figures: dict[str, float], rows: list[Share], *, parameters: int, seed: int, note: str) -> str:
    """The model card: `card.md` with what was measured."""
    return CARD.read_text(encoding="utf-8").format(
        table=table(rows),
        parameters=f"{parameters / 1e6:.2f}",
        seed=seed,
        note="\n" + textwrap.fill(note, 118) + "\n" if note else "",
        tokens=f"{figures['tokens'] / 1e6:.1f} million",
        minutes=f"{figures['seconds'] / 60:.0f}",
        steps=f"{int(figures['step']):,}",
    )


def publish(run: Path, folder: Path, *, seed: int, count: int, note: str) -> None:
    """The newest checkpoint of a run, with its card, in place of what the folder held."""
    starter, tokenizer = load(run / "latest")
    rows = [*measure_drawn(starter, tokenizer, count), *measure_sample(starter, tokenizer)]
    figures = json.loads((run / "training.json").read_text(encoding="utf-8"))
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run / "latest", folder)
    for path in folder.iterdir():
        path.chmod(0o644)
    written = card(figures, rows, parameters=starter.num_parameters(), seed=seed, note=note)
    (folder / "README.md").write_text(written, encoding="utf-8")


def main(arguments: list[str]) -> None:
    """Reads the options and publishes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=300, help="drawn prompts per row")
    parser.add_argument("--note", default="", help="a sentence about this run for the card")
    options = parser.parse_args(arguments)
    publish(options.run, options.folder, seed=options.seed, count=options.count, note=options.note)


if __name__ == "__main__":
    main(sys.argv[1:])
