"""Before and after: held-out questions, asked through the real API of each adapter by name, greedily."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from flywheel.demo.people import Answer
from flywheel.starter.preference import fact_is_right, is_refusal, is_wanted
from flywheel.statistics.win_rates import wilson_interval

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Measure:
    """A yes-or-no property of an answer, over the kinds of question that it makes sense for."""

    name: str
    kinds: tuple[str, ...]
    holds: Callable[[Answer], bool]


def _fact(answer: Answer) -> bool:
    return fact_is_right(answer.text, answer.question.expected)


def _wanted(answer: Answer) -> bool:
    return is_wanted(answer.text, answerable=answer.question.kind == "answerable")


def _refused(answer: Answer) -> bool:
    return is_refusal(answer.text)


MEASURES = (
    Measure("wanted_behaviour", ("answerable", "unanswerable"), _wanted),
    Measure("fact_accuracy", ("answerable",), _fact),
    Measure("honest_when_unanswerable", ("unanswerable",), _refused),
    Measure("refused_although_answerable", ("answerable",), _refused),
)


def measured(answers: Sequence[Answer]) -> dict[str, Any]:
    """{measure: {rate, count, of, interval (Wilson, 95 %)}} and the mean length in tokens."""
    found: dict[str, Any] = {}
    for measure in MEASURES:
        marks = [measure.holds(answer) for answer in answers if answer.question.kind in measure.kinds]
        if marks:
            interval = [round(bound, 4) for bound in wilson_interval(sum(marks), len(marks))]
            found[measure.name] = {
                "rate": round(mean(marks), 4),
                "count": sum(marks),
                "of": len(marks),
                "interval": interval,
            }
    found["length_tokens"] = round(mean(answer.tokens for answer in answers), 1) if answers else None
    return found


def paired_difference(
    before: Sequence[Answer], after: Sequence[Answer], measure: Measure
) -> tuple[float, float, float]:
    """Mean change per question and its 95 % interval (normal approximation on the paired differences)."""
    earlier = {answer.question.id: measure.holds(answer) for answer in before if answer.question.kind in measure.kinds}
    changes = [measure.holds(answer) - earlier[answer.question.id] for answer in after if answer.question.id in earlier]
    if len(changes) < 2:
        return 0.0, -1.0, 1.0
    centre, margin = mean(changes), Z95 * stdev(changes) / math.sqrt(len(changes))
    return centre, centre - margin, centre + margin
