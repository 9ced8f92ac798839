"""Intent routing: what a question wants, told from labelled example utterances, and which route it takes.

The classifier is a softmax regression over the embedding model's vectors, fitted when serving starts (deterministic,
milliseconds). Retrieval has a say: a question for which the library holds a near passage is never refused, nor taken
for small talk. The examples are `serving/intents/*.txt`, one
utterance a line, general to any help centre. `version` is a hash of the examples and the embedding model's name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flywheel.interactions import Passage
from flywheel.messages import Message, message_text
from rag.embedding import Vectors
from rag.library import Library

FOLDER = Path(__file__).parent / "intents"
INTENTS = ("knowledge", "small_talk", "out_of_scope")
ROUTES = {"knowledge": "knowledge", "small_talk": "small_talk", "out_of_scope": "refuse"}
NEAR = 0.36
"""A passage this near (cosine) settles it: the question goes to knowledge. Talk and foreign topics stay below .33 on
the sample help centre, its own questions above .5."""
FAINT = 0.28
"""A passage this near counts where the classifier is in doubt."""
SURE = 0.55
"""What the classifier must reach not to be in doubt."""
STEPS, RATE, DECAY = 300, 2.0, 1e-3
SHARPNESS = 4.0
"""Vectors of length one lie close together; this spreads their scores."""
SHORT_WORDS = 6
LEANS = re.compile(
    r"\b(it|its|there|that|this|they|them|their|he|she|his|her|ones?|those|these)\b"
    r"|^(and|also|or|what about|how about)\b",
    re.IGNORECASE,
)
BEFORE = 0.5
"""The share of the question before in the search for one that leans on it ("and on Sundays?"). On 82 follow-ups to the
sample help centre the right section was among the first three 78 times; 46 times without it, 76 with both texts joined.
"""


class Question(NamedTuple):
    """The last user turn, and the one before it where the last leans on it."""

    words: str
    before: str | None


class Decision(NamedTuple):
    intent: str
    route: str
    passages: list[Passage]


class Router:
    """Holds the fitted weights."""

    def __init__(self, library: Library, *, model_name: str, top_k: int) -> None:
        texts, labels = read_examples(FOLDER)
        self._weights = fit(library.embed(texts), np.array(labels))
        self._top_k = top_k
        known = "\n".join([model_name, *(f"{label}\t{text}" for label, text in zip(labels, texts, strict=True))])
        self.version = hashlib.sha256(known.encode()).hexdigest()[:12]

    def decide(self, library: Library, question: Question) -> Decision:
        """Intent, route and the nearest passages, best first. Blocks: embeds the question."""
        vectors = library.embed([question.words, question.before] if question.before else [question.words])
        search = vectors[0] + BEFORE * vectors[1] if question.before else vectors[0]
        passages = library.nearest(search, self._top_k)
        intent, certainty = self.intent(vectors[0])
        judged = library.nearest(vectors[0], 1) if intent == "small_talk" else passages  # thanks are near to nothing
        best = judged[0].score if judged else 0.0
        return Decision(intent, route_of(intent, certainty, best), passages)

    def intent(self, vector: Vectors) -> tuple[str, float]:
        """The likeliest intent and its probability."""
        chances = probabilities(vector[None, :], self._weights)[0]
        place = int(chances.argmax())
        return INTENTS[place], float(chances[place])


def route_of(intent: str, certainty: float, best_score: float) -> str:
    """Where a question goes: near passages speak for knowledge, and in doubt even faint ones."""
    needed = NEAR if certainty >= SURE else FAINT
    return "knowledge" if best_score >= needed else ROUTES[intent]


def question_of(messages: Sequence[Message]) -> Question:
    """What is asked: the last user turn, which may lean on the one before."""
    turns = [text for message in messages if message.get("role") == "user" if (text := message_text(message).strip())]
    words = turns[-1] if turns else ""
    leans = len(words.split()) <= SHORT_WORDS or LEANS.search(words) is not None
    return Question(words, turns[-2] if len(turns) > 1 and leans else None)


def read_examples(folder: Path) -> tuple[list[str], list[int]]:
    """Every utterance and the place of its intent in INTENTS."""
    texts: list[str] = []
    labels: list[int] = []
    for label, intent in enumerate(INTENTS):
        lines = [line.strip() for line in (folder / f"{intent}.txt").read_text(encoding="utf-8").splitlines()]
        kept = [line for line in lines if line and not line.startswith("#")]
        texts += kept
        labels += [label] * len(kept)
    return texts, labels


def fit(vectors: Vectors, labels: NDArray[np.int64]) -> Vectors:
    """Softmax regression by gradient descent; every intent weighs the same. Shape (dimensions + 1, intents)."""
    X = _with_bias(vectors)
    T = np.eye(len(INTENTS), dtype=np.float32)[labels]
    balance = (T / T.sum(axis=0)).sum(axis=1, keepdims=True) / len(INTENTS)
    W = np.zeros((X.shape[1], len(INTENTS)), dtype=np.float32)
    for _ in range(STEPS):
        gradient = X.T @ (balance * (_softmax(X @ W * SHARPNESS) - T)) * SHARPNESS
        W -= RATE * (gradient + DECAY * W)
    return W


def probabilities(vectors: Vectors, weights: Vectors) -> Vectors:
    """Shape (texts, intents)."""
    X = _with_bias(vectors)
    return _softmax(X @ weights * SHARPNESS)


def _with_bias(vectors: Vectors) -> Vectors:
    return np.hstack([vectors, np.ones((len(vectors), 1), dtype=np.float32)])


def _softmax(scores: NDArray[Any]) -> Vectors:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)
