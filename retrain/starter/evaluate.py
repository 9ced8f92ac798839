"""Measures a starter base model, greedily: `python -m retrain.starter.evaluate DIR [--count 300] [--json]`.

Each row of the table is a share with its count and 95 % Wilson interval. Drawn contexts use a seed that training never
uses; the last rows are the questions of the sample help centre. Not covered: sampled answers, adapters.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch
from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

from flywheel.starter.preference import fact_is_right, is_refusal, is_wanted
from flywheel.starter.scenes import NO_TWIST, Probe, Twist, draw_probe
from retrain.starter.answers import greedy_answers
from retrain.starter.sample import sample_prompts

SEED = 1_000_003
POLITE = re.compile(r"\b(?:sorry|afraid|cannot)\b", re.IGNORECASE)
TWISTS = {
    "known phrasing": NO_TWIST,
    "new phrasing": Twist(new_phrasing=True),
    "new entity": Twist(new_entity=True),
    "new attribute": Twist(new_attribute=True),
}


@dataclass(frozen=True)
class Share:
    """How often something held."""

    name: str
    right: int
    count: int

    @property
    def value(self) -> float:
        """The share itself; 0 where nothing was counted."""
        return self.right / self.count if self.count else 0.0

    def interval(self, z: float = 1.96) -> tuple[float, float]:
        """The Wilson score interval."""
        if not self.count:
            return 0.0, 1.0
        n, p = self.count, self.value
        middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


def share(name: str, held: Iterable[bool]) -> Share:
    """The share of a list of outcomes."""
    outcomes = list(held)
    return Share(name, sum(outcomes), len(outcomes))


def cited(answer: str) -> list[int]:
    """The passages that an answer names."""
    return [int(number) for number in re.findall(r"\[(\d+)\]", answer)]


def judge(name: str, answers: list[str], expected: list[list[str]], citations: list[int]) -> list[Share]:
    """The rows about answerable questions: fact, citation where one is given, style, refusals."""
    facts = [fact_is_right(said, right) for said, right in zip(answers, expected, strict=True)]
    marks = [cited(said) == [number] for said, number in zip(answers, citations, strict=True) if cited(said)]
    return [
        share(f"{name}: fact right", facts),
        share(f"{name}: citation right, where given", marks),
        share(f"{name}: wanted style", [is_wanted(said, answerable=True) for said in answers]),
        share(f"{name}: refused although answerable", [is_refusal(said) for said in answers]),
    ]


def draw_probes(count: int, seed: int, *, answerable: bool = True, twist: Twist = NO_TWIST) -> list[Probe]:
    """Freshly drawn prompts."""
    random = Random(seed)
    return [draw_probe(random, answerable=answerable, twist=twist) for _ in range(count)]


def is_friendly(answer: str) -> bool:
    """Whether an answer to small talk is short and declines nothing."""
    return 0 < len(answer.split()) <= 15 and "cannot help" not in answer and "outside" not in answer


def measure_drawn(starter: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, count: int) -> list[Share]:
    """The rows about drawn contexts."""
    rows: list[Share] = []
    for place, name in enumerate(TWISTS):
        probes = draw_probes(count, SEED + place, twist=TWISTS[name])
        answers = greedy_answers(starter, tokenizer, [probe.messages for probe in probes])
        rows += judge(name, answers, [[probe.expected] for probe in probes], [probe.citation for probe in probes])
    probes = draw_probes(count, SEED + 9, answerable=False)
    answers = greedy_answers(starter, tokenizer, [probe.messages for probe in probes])
    return [*rows, share("unanswerable: honest", [is_refusal(said) for said in answers])]


def measure_sample(starter: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer) -> list[Share]:
    """The rows about the sample help centre."""
    asked = sample_prompts(SEED)
    answers = greedy_answers(starter, tokenizer, [one.messages for one in asked])
    kinds: dict[str, list[int]] = {}
    for at, one in enumerate(asked):
        kinds.setdefault(one.question["kind"], []).append(at)
    known = kinds["answerable"]
    rows = judge(
        "sample",
        [answers[at] for at in known],
        [asked[at].question["expected"] for at in known],
        [asked[at].citation for at in known],
    )
    for split in ("users", "gate", "heldout"):
        part = [at for at in known if asked[at].question["split"] == split]
        facts = [fact_is_right(answers[at], asked[at].question["expected"]) for at in part]
        rows.append(share(f"sample {split}: fact right", facts))
    rows.append(share("sample unanswerable: honest", [is_refusal(answers[at]) for at in kinds["unanswerable"]]))
    declined = [bool(POLITE.search(answers[at])) for at in kinds["out_of_scope"]]
    friendly = [is_friendly(answers[at]) for at in kinds["small_talk"]]
    return [*rows, share("sample out of scope: declined", declined), share("sample small talk: friendly", friendly)]


def fact_accuracy(starter: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, *, count: int, seed: int) -> float:
    """Share of known-phrasing probes whose answer holds the fact: the quick look during training."""
    probes = draw_probes(count, seed)
    starter.train(False)
    answers = greedy_answers(starter, tokenizer, [probe.messages for probe in probes])
    starter.train()
    return share("", [fact_is_right(said, [probe.expected]) for said, probe in zip(answers, probes, strict=True)]).value


def table(rows: list[Share]) -> str:
    """The rows as a Markdown table."""
    lines = ["| measured greedily | share | 95 % interval | right / asked |", "|---|---|---|---|"]
    for row in rows:
        low, high = row.interval()
        lines.append(f"| {row.name} | {row.value:.2f} | {low:.2f}–{high:.2f} | {row.right} / {row.count} |")
    return "\n".join(lines)


def load(folder: Path) -> tuple[Qwen2ForCausalLM, Qwen2Tokenizer]:
    """A base model in float32, ready to answer, and its tokenizer."""
    starter = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    starter.train(False)
    return starter, Qwen2Tokenizer.from_pretrained(folder)


def main(arguments: list[str]) -> None:
    """Loads a folder and prints its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--count", type=int, default=300, help="drawn prompts per row")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    starter, tokenizer = load(Path(options.folder))
    rows = [*measure_drawn(starter, tokenizer, options.count), *measure_sample(starter, tokenizer)]
    figures = [{**asdict(row), "share": row.value, "interval": row.interval()} for row in rows]
    print(json.dumps(figures, indent=1) if options.json else table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
