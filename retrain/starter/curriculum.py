"""What the starter reads when: random copying and binding, then facts in a world that widens, then everything.

`facts` starts with few attributes, wordings and names, and widens as often as whole answers are right: choosing the
right fact among several is learnt in a narrow world within minutes, and in the wide one hardly ever. `mixed` is the
rest of the time. Rows are drawn on the fly and never come twice; a batch holds rows of like length, padded on the
right.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random

import torch
from transformers import Qwen2Tokenizer

from flywheel.starter import lessons
from retrain.starter.copying import binding_row, copying_row
from retrain.starter.row import NOWHERE, Row
from retrain.starter.tokenizer import encode_turns

LONGEST = 512
POOL = 128
COPYING_LOSS, BINDING_LOSS = 0.6, 0.3
COPYING_SHARE, BINDING_SHARE, WIDEN_ANYWAY_SHARE, FACTS_SHARE = 0.1, 0.15, 0.4, 0.5
WIDEN_ABOVE = (0.55, 0.7)
WIDEN_STEP, WIDEN_ANYWAY_STEP = 0.03, 0.05
MIXED_ROWS = 0.9


@dataclass(frozen=True)
class Batch:
    """Token ids [rows, length], and of the same shape what a `Row` says of each."""

    tokens: torch.Tensor
    learnt: torch.Tensor
    source: torch.Tensor
    anchor: torch.Tensor


@dataclass
class Course:
    """Where the curriculum stands. `width` is how much of the world the facts show; it only grows."""

    phase: str = "copying"
    width: float = 0.0

    def advance(self, *, share: float, loss: float, right: float) -> None:
        """Moves on. `share` of the time has passed; `loss` and `right` (learnt turns said right) are running means."""
        if self.phase == "copying" and (loss < COPYING_LOSS or share > COPYING_SHARE):
            self.phase = "binding"
        elif self.phase == "binding" and (loss < BINDING_LOSS or share > BINDING_SHARE):
            self.phase = "facts"
        elif self.phase == "facts":
            self.widen(share, right)
            self.phase = "mixed" if share > FACTS_SHARE else "facts"

    def widen(self, share: float, right: float) -> None:
        """A wider world for those who answer well, and for everybody once much of the time has passed."""
        step = WIDEN_STEP * sum(right > limit for limit in WIDEN_ABOVE)
        step += WIDEN_ANYWAY_STEP if share > WIDEN_ANYWAY_SHARE else 0.0
        self.width = min(1.0, self.width + step)


def draw_row(random: Random, course: Course, tokenizer: Qwen2Tokenizer) -> Row:
    """One encoded row of the present phase."""
    if course.phase == "copying":
        return copying_row(random)
    if course.phase == "binding":
        return binding_row(random)
    if course.phase == "mixed" and random.random() < MIXED_ROWS:
        return encode_turns(tokenizer, lessons.mixed(random))
    passages = random.choice([1, 2, 2, 3, 3])
    flawed = course.phase == "mixed"
    turns = lessons.many_questions(random, passages=passages, width=course.width, flawed=flawed)
    return encode_turns(tokenizer, turns)


def draw_rows(random: Random, course: Course, tokenizer: Qwen2Tokenizer, count: int) -> list[Row]:
    """`count` encoded rows that fit."""
    rows: list[Row] = []
    while len(rows) < count:
        row = draw_row(random, course, tokenizer)
        if len(row.tokens) <= LONGEST:
            rows.append(row)
    return rows


def collate(rows: list[Row]) -> Batch:
    """Rows padded to the longest."""
    width = max(len(row.tokens) for row in rows)

    def padded(lists: Iterable[list[int] | list[bool]], filler: int) -> torch.Tensor:
        return torch.tensor([values + [filler] * (width - len(values)) for values in lists])

    return Batch(
        padded((row.tokens for row in rows), 0),
        padded((row.learnt for row in rows), False),
        padded((row.source for row in rows), NOWHERE),
        padded((row.anchor for row in rows), NOWHERE),
    )


def batches(random: Random, tokenizer: Qwen2Tokenizer, course: Course, tokens: int) -> Iterator[Batch]:
    """Endless batches of at most `tokens` padded tokens; random tokens come in batches half as large."""
    while True:
        rows = sorted(draw_rows(random, course, tokenizer, POOL), key=lambda row: len(row.tokens))
        most = tokens // 2 if course.phase in ("copying", "binding") else tokens
        groups: list[list[Row]] = [[]]
        for row in rows:
            if groups[-1] and (len(groups[-1]) + 1) * len(row.tokens) > most:
                groups.append([])
            groups[-1].append(row)
        random.shuffle(groups)
        for group in groups:
            yield collate(group)
