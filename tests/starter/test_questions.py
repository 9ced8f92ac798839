import json
from collections import Counter

from flywheel.starter.preference import fact_is_right
from flywheel.starter.questions import (
    HELP_CENTRE,
    QUESTIONS,
    Question,
    last_words,
    make_questions,
    sections,
    stated_facts,
    written,
)  # fmt: skip
from flywheel.starter.tables import table


def stored() -> list[Question]:
    return [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]


def test_stored_questions_are_what_the_generator_makes() -> None:
    assert QUESTIONS.read_text(encoding="utf-8") == written(make_questions())


def test_splits_share_no_question_and_no_fact() -> None:
    asked: dict[str, str] = {}
    places: dict[tuple[str, str], str] = {}
    for question in stored():
        assert asked.setdefault(last_words(question), question["split"]) == question["split"]
        if question["section"]:
            place = (question["document"], question["section"])
            assert places.setdefault(place, question["split"]) == question["split"]


def test_every_split_is_large_enough() -> None:
    counts = Counter(question["split"] for question in stored())
    assert counts["users"] >= 300
    assert counts["gate"] >= 150
    assert counts["heldout"] >= 150
    kinds = Counter((question["split"], question["kind"]) for question in stored())
    assert len(kinds) == 12


def test_expected_text_stands_in_the_named_section() -> None:
    texts = {(p.name, part[1]): part[2] for p in HELP_CENTRE.glob("*.md") for part in sections(p)}
    for question in stored():
        if question["kind"] == "answerable":
            assert fact_is_right(texts[question["document"], question["section"]], question["expected"])
        else:
            assert not question["expected"]


def test_documents_are_short_sections_about_names_that_training_never_uses() -> None:
    documents = sorted(HELP_CENTRE.glob("*.md"))
    assert 30 <= len(documents) <= 50
    for document in documents:
        for title, _, text in sections(document):
            assert len(text.split()) <= 60
            assert title.split()[0] in table("sample_names").split("|")
    assert len(stated_facts()) >= 60


def test_ids_are_unique() -> None:
    ids = [question["id"] for question in stored()]
    assert len(set(ids)) == len(ids)
