"""Intent routing, on the embedding model itself. None of these utterances is among the examples."""

from __future__ import annotations

from typing import Any

import pytest

from rag.embedding import Embedder
from serving.router import INTENTS, Question, Router, question_of, route_of

UTTERANCES = {
    "knowledge": [
        "What's the fee for the lounge?",
        "Until when can I hand the boat back?",
        "Is the museum closed on Mondays?",
        "How do I get a new card if mine is lost?",
        "Does it come with a charger?",
        "I'd like to know how much luggage I can take.",
        "My login code never arrives, help",
        "Which days is the pool open?",
    ],
    "small_talk": [
        "Hey there, how's life?",
        "Many thanks, you saved me!",
        "See ya",
        "Nice talking to you",
        "Hiya",
        "ok great thanks",
        "Are you a bot?",
        "That's all I needed",
    ],
    "out_of_scope": [
        "Write a haiku about winter",
        "Who was the first man on the moon?",
        "What's 12 squared?",
        "Code a quicksort in C++",
        "Which crypto coin will go up?",
        "Who should be the next prime minister?",
        "How do I cook risotto?",
        "Translate 'cheese' into Italian",
    ],
}


class WithoutDocuments:
    """A library with an embedding model and nothing in it."""

    def __init__(self, embedder: Embedder) -> None:
        self.embed = embedder.embed

    def nearest(self, _vector: Any, _top_k: int) -> Any:
        return []


@pytest.fixture(scope="module")
def library(embedder: Embedder) -> Any:
    return WithoutDocuments(embedder)


@pytest.fixture(scope="module")
def router(library: Any) -> Any:
    return Router(library, model_name="minilm", top_k=3)


def test_utterances_it_never_saw_are_placed_right(router: Router, library: Any) -> None:
    found = [
        (intent, router.decide(library, Question(words, None)).intent, words)
        for intent, lines in UTTERANCES.items()
        for words in lines
    ]
    wrong = [one for one in found if one[0] != one[1]]
    assert len(wrong) <= 2, wrong


def test_version_is_that_of_examples_and_embedding_model(router: Router, library: Any) -> None:
    assert router.version == Router(library, model_name="minilm", top_k=9).version
    assert router.version != Router(library, model_name="other", top_k=3).version


@pytest.mark.parametrize(
    ("intent", "certainty", "best", "route"),
    [
        ("knowledge", 0.9, 0.0, "knowledge"),
        ("small_talk", 0.9, 0.1, "small_talk"),
        ("small_talk", 0.9, 0.7, "knowledge"),
        ("out_of_scope", 0.9, 0.1, "refuse"),
        ("out_of_scope", 0.99, 0.6, "knowledge"),
        ("out_of_scope", 0.4, 0.3, "knowledge"),
        ("out_of_scope", 0.4, 0.1, "refuse"),
    ],
)
def test_near_passages_outvote_the_classifier(intent: str, certainty: float, best: float, route: str) -> None:
    assert intent in INTENTS
    assert route_of(intent, certainty, best) == route


def test_only_a_question_that_leans_on_the_one_before_is_searched_for_with_it() -> None:
    def asked(*words: str) -> Question:
        return question_of([{"role": "user", "content": text} for text in words])

    first = "How much is the ferry for adults?"
    assert asked(first, "And for children?").before == first
    assert asked(first, "How much time in advance do I have to book it by telephone?").before == first
    assert asked(first, "How much does the largest room of the hotel cost per night?").before is None
    assert asked("And for children?").before is None
    assert question_of([{"role": "system", "content": "x"}]) == Question("", None)
