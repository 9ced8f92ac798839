"""The simulated users, said to be simulated: they ask the sample help centre's questions and rate by a stated
preference.

Hidden preference: the right fact, said in one plain sentence that cites its passage, without preamble or filler; and
an honest "I do not know" where the passages do not say (flywheel/starter/preference.py). An answer with both halves,
one or none of it gets thumbs up 95, 25 or 5 times in a hundred, and a person rates nine answers in ten. They speak to
the API as anybody does, through the stock `openai` client.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from typing import Any

import openai

from flywheel.client import ApiClient
from flywheel.demo.questions import Question
from flywheel.errors import FlywheelError
from flywheel.starter.preference import fact_is_right, is_wanted

THUMBS_UP = (0.05, 0.25, 0.95)
"""Chance of thumbs up for an answer with neither half of the preference, with one, with both."""
BOTH = 2
"""What `liking` gives an answer with both halves."""
RATES = 0.9
"""Chance that a person rates an answer."""


@dataclass(frozen=True)
class Answer:
    """What came back for a question, and which adapter the API says has spoken."""

    question: Question
    completion_id: str
    text: str
    adapter: str
    tokens: int
    asked_at: float
    """time.monotonic(), as `answered_at`."""
    answered_at: float


@dataclass
class Tally:
    """Every request the demo made, counted by all threads."""

    total: int = 0
    failed: int = 0
    errors: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, error: Exception | None = None) -> None:
        """One more request, and what went wrong with it if anything did."""
        with self._lock:
            self.total += 1
            if error is not None:
                self.failed += 1
                self.errors.append(f"{type(error).__name__}: {error}")


def liking(question: Question, text: str) -> int:
    """How much of the preference an answer meets: 0, 1 or 2; 1 only where there is a fact to get right."""
    if question.kind == "answerable":
        return fact_is_right(text, question.expected) + is_wanted(text, answerable=True)
    if question.kind == "unanswerable":
        return 2 if is_wanted(text, answerable=False) else 0
    return 2 if text.strip() else 0


class People:
    """Asks and rates as many users at once; holds the client, the tally and the thread pool."""

    def __init__(self, api: ApiClient, *, model: str, at_once: int) -> None:
        self.model = model
        self.tally = Tally()
        self._api = api
        self._client = openai.OpenAI(base_url=f"{api.url}/v1", api_key=api.key or "none", max_retries=0, timeout=120)
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="people")

    def close(self) -> None:
        """End the threads; questions still waiting are dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def ask(self, question: Question, *, user: str, model: str | None = None, **options: Any) -> Answer | None:
        """One chat completion; None when it failed (the tally knows why)."""
        begun = time.monotonic()
        messages: Any = question.messages
        try:
            done = self._client.chat.completions.create(
                model=model or self.model, messages=messages, user=user, metadata={"route": "auto"}, **options
            )
        except openai.OpenAIError as error:
            self.tally.count(error)
            return None
        self.tally.count()
        text, usage = done.choices[0].message.content or "", done.usage
        adapter, tokens = done.system_fingerprint or "", usage.completion_tokens if usage else 0
        return Answer(question, done.id, text, adapter, tokens, begun, time.monotonic())

    def stream(
        self, question: Question, *, user: str, on_text: Callable[[str], None] = lambda _text: None, **options: Any
    ) -> Answer | None:
        """The same, streamed; `on_text` hears each piece."""
        begun, pieces, chunk = time.monotonic(), [], None
        messages: Any = question.messages
        try:
            stream = self._client.chat.completions.create(
                model=self.model, messages=messages, user=user, stream=True, **options
            )
            for chunk in stream:
                for choice in chunk.choices:
                    pieces.append(choice.delta.content or "")
                    on_text(pieces[-1])
        except openai.OpenAIError as error:
            self.tally.count(error)
            return None
        self.tally.count()
        fingerprint = (chunk.system_fingerprint or "") if chunk else ""
        return Answer(question, chunk.id if chunk else "", "".join(pieces), fingerprint, 0, begun, time.monotonic())

    def rate(self, answer: Answer, *, user: str) -> bool | None:
        """Thumbs by the hidden preference, with its noise; None when this person does not bother, or it failed."""
        random = Random(f"{user} {answer.completion_id}")
        if random.random() > RATES:
            return None
        thumb = random.random() < THUMBS_UP[liking(answer.question, answer.text)]
        body = {
            "completion_id": answer.completion_id,
            "name": "rating",
            "value": thumb,
            "user": user,
            "source": "simulated",
        }
        try:
            self._api.post("/v1/feedback", body)
        except FlywheelError as error:
            self.tally.count(error)
            return None
        self.tally.count()
        return thumb

    def visit(self, user: str, questions: Iterable[Question]) -> list[tuple[Answer, bool | None]]:
        """One user's visit: ask, read, rate, ask the next."""
        answers = [self.ask(question, user=user) for question in questions]
        return [(answer, self.rate(answer, user=user)) for answer in answers if answer is not None]

    def visits(
        self, plan: Iterable[tuple[str, list[Question]]], on_done: Callable[[], None] = lambda: None
    ) -> list[tuple[Answer, bool | None]]:
        """Many users at once; `on_done` is called after each visit."""
        seen = []
        for visit in self._pool.map(lambda user_questions: self.visit(*user_questions), plan):
            seen += visit
            on_done()
        return seen

    def answers(
        self, questions: Iterable[Question], on_done: Callable[[], None] = lambda: None, **options: Any
    ) -> list[Answer]:
        """The same questions from nobody in particular: for measuring. Order is kept; failed ones are left out."""
        found = []
        for answer in self._pool.map(lambda question: self.ask(question, user="measure", **options), questions):
            on_done()
            found += [answer] if answer is not None else []
        return found
