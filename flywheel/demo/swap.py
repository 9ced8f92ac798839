"""Steady traffic while the alias flips: what was live when, and whether any answer came from another adapter.

The traffic asks a few probe questions greedily. An answer is wrong if the adapter it names was not live at any time
between question and answer, or if its text is what the other adapter says to this probe.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from flywheel.demo.people import Answer, People
from flywheel.demo.questions import Question


class Traffic:
    """Threads that ask until stopped. As a context manager: traffic runs inside the block."""

    def __init__(self, people: People, probes: Sequence[Question], *, threads: int) -> None:
        self._people, self._probes = people, probes
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,), daemon=True) for number in range(threads)]
        self.answers: list[Answer] = []

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        turn = 0
        while not self._stop.is_set():
            probe, user = self._probes[(number + turn) % len(self._probes)], f"visitor-{number}"
            asked = self._people.ask if turn % 2 else self._people.stream
            answer = asked(probe, user=user, temperature=0)
            if answer is not None:
                self.answers.append(answer)
            turn += 1

    def first_answer_from(self, adapter: str, *, since: float, patience_seconds: float = 30) -> float | None:
        """Seconds from `since` (monotonic) to the end of the first answer by `adapter` that was asked after it."""
        give_up = time.monotonic() + patience_seconds
        while time.monotonic() < give_up:
            ends = [
                answer.answered_at
                for answer in list(self.answers)
                if answer.adapter == adapter and answer.asked_at >= since
            ]
            if ends:
                return min(ends) - since
            time.sleep(0.02)
        return None


class Timeline:
    """Which adapters were allowed to speak from when on."""

    def __init__(self, adapters: set[str]) -> None:
        self._spans: list[tuple[float, set[str]]] = [(float("-inf"), adapters)]

    def allow(self, adapters: set[str], *, since: float) -> None:
        """From `since` (monotonic) on, exactly these."""
        self._spans.append((since, adapters))

    def allowed(self, answer: Answer) -> set[str]:
        """Every adapter that was allowed at some time between question and answer."""
        ends = [begin for begin, _ in self._spans[1:]] + [float("inf")]
        spans = zip(self._spans, ends, strict=True)
        return set().union(
            *(who for (begin, who), end in spans if begin <= answer.answered_at and end > answer.asked_at)
        )


def wrong_answers(answers: Sequence[Answer], timeline: Timeline, *, greedy: dict[tuple[str, str], str]) -> list[Answer]:
    """The answers by an adapter that was not live, or with another adapter's words.

    `greedy` maps (question id, adapter) to what that adapter says; only questions on which the adapters differ count.
    """
    return [
        answer
        for answer in answers
        if answer.adapter not in timeline.allowed(answer) or _speaks_for_another(answer, greedy)
    ]


def _speaks_for_another(answer: Answer, greedy: dict[tuple[str, str], str]) -> bool:
    own = greedy.get((answer.question.id, answer.adapter))
    others = {
        text
        for (question, adapter), text in greedy.items()
        if question == answer.question.id and adapter != answer.adapter
    }
    return answer.text != own and answer.text in others
