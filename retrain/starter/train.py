"""Trains the starter base model from nothing on a CPU: `python -m retrain.starter.train --out DIR --minutes 60`.

Time is the budget: the curriculum and the learning rate follow the share of minutes that has passed. A servable folder
is written every `--save-minutes` to `DIR/checkpoint-*`; `DIR/latest` points at the newest, `DIR/training.json` keeps
the figures.
"""

import argparse
import sys
import time
from pathlib import Path
from random import Random

import torch
from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

from flywheel.starter import lessons
from retrain.starter.checkpoint import Progress, keep
from retrain.starter.curriculum import Batch, Course, batches
from retrain.starter.evaluate import fact_accuracy, load
from retrain.starter.initial import starter_config, starter_weights
from retrain.starter.learning import Losses, optimizers, rate_at, train_step
from retrain.starter.tokenizer import train_tokenizer

TOKENIZER_ROWS = 12_000
ADVANCE_EVERY = 20
FEWEST_LAYERS = 3


def report(progress: Progress, course: Course, minutes: float, accuracy: str = "") -> None:
    """One line about where the run stands."""
    rate = progress.tokens / max(progress.seconds, 1)
    left = minutes - progress.seconds / 60
    print(
        f"{course.phase:8} width {course.width:.2f}  step {progress.step:6d}"
        f"  loss {progress.loss:.3f}  pointing {progress.pointing:.2f}"
        f"  turns right {progress.right:.2f}  {progress.tokens / 1e6:.1f}M tokens  {rate:,.0f} tok/s"
        f"  {left:.0f} min left  {accuracy}",
        flush=True,
    )


def follow(progress: Progress, losses: Losses, batch: Batch, started: float) -> None:
    """Counts one step."""
    progress.loss += (float(losses.answers.detach()) - progress.loss) * 0.03
    progress.pointing += (float(losses.pointing.detach()) - progress.pointing) * 0.03
    progress.right += (losses.right - progress.right) * 0.03
    progress.step += 1
    progress.tokens += int((batch.tokens != 0).sum())
    progress.seconds = time.monotonic() - started


def begin(options: argparse.Namespace, random: Random) -> tuple[Qwen2ForCausalLM, Qwen2Tokenizer]:
    """New weights and a tokenizer, or those of the folder to go on from."""
    if options.start:
        return load(Path(options.start))
    turns = [turn for _ in range(TOKENIZER_ROWS) for turn in lessons.mixed(random)]
    tokenizer = train_tokenizer([text for turn in turns for text in (turn.role, turn.content)])
    config = starter_config(layers=options.layers, hidden=options.hidden, feed_forward=options.feed_forward, heads=4)
    return starter_weights(config, seed=options.seed), tokenizer


def run(options: argparse.Namespace) -> None:
    """The whole training."""
    random, out = Random(options.seed), Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    starter, tokenizer = begin(options, random)
    starter.to(torch.float32).train()  # type: ignore[arg-type]
    starter.set_attn_implementation("eager")
    going_on = "mixed" if options.width >= 1 else "facts"
    course = Course(going_on if options.start else "copying", options.width)
    tools, progress = optimizers(starter), Progress()
    started, saved, said = time.monotonic(), 0.0, 0.0
    for batch in batches(random, tokenizer, course, options.batch_tokens):
        share = progress.seconds / 60 / options.minutes
        if share >= 1:
            break
        follow(progress, train_step(starter, tools, batch, rate_at(share)), batch, started)
        if progress.step % ADVANCE_EVERY == 0:
            course.advance(share=share, loss=progress.loss, right=progress.right)
        if progress.seconds - said > 30:
            said = progress.seconds
            report(progress, course, options.minutes)
        if progress.seconds - saved > options.save_minutes * 60:
            saved = progress.seconds
            keep(starter, tokenizer, out, progress)
            known = fact_accuracy(starter, tokenizer, count=60, seed=1)
            report(progress, course, options.minutes, f"known facts {known:.2f}")
    keep(starter, tokenizer, out, progress)
    report(progress, course, options.minutes)


def main(arguments: list[str]) -> None:
    """Reads the options and trains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="folder for checkpoints")
    parser.add_argument("--minutes", type=float, default=75, help="length of the run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", default="", help="folder to go on from, in the facts phase at --width")
    parser.add_argument("--width", type=float, default=0.0, help="0 to 1; 1 with --start mixes at once")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-minutes", type=float, default=10)
    parser.add_argument("--batch-tokens", type=int, default=6144)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--feed-forward", type=int, default=352)
    options = parser.parse_args(arguments)
    if options.layers < FEWEST_LAYERS:
        parser.error(f"--layers is at least {FEWEST_LAYERS}: the pointing heads need them")
    torch.set_num_threads(options.threads)
    run(options)


if __name__ == "__main__":
    main(sys.argv[1:])
