"""From text to chunks."""

from __future__ import annotations

from rag.sections import Section, chunks, split_sentences


def test_each_section_is_one_chunk_and_the_title_none() -> None:
    text = "# Maple plan\n\n## Price\nIt costs 12 €.\nPer month.\n\n## Users\nUp to 5."
    assert chunks("Maple plan", text, chunk_words=80) == [
        Section("Price", "It costs 12 €. Per month."),
        Section("Users", "Up to 5."),
    ]


def test_words_before_any_heading_and_plain_text_stand_under_overview() -> None:
    assert chunks("Note", "Just words.\n\n## Then\nMore.", chunk_words=80) == [
        Section("Overview", "Just words."),
        Section("Then", "More."),
    ]


def test_deeper_headings_carry_their_parents_and_underlined_ones_count() -> None:
    text = "Plans\n=====\nIntro.\n\nTeam\n----\nFor five.\n\n### Price\n9 €.\n\n## Solo\nFor one."
    assert chunks("Handbook", text, chunk_words=80) == [
        Section("Plans", "Intro."),
        Section("Team", "For five."),
        Section("Team / Price", "9 €."),
        Section("Solo", "For one."),
    ]


def test_headings_inside_code_are_words() -> None:
    assert chunks("Shell", "## Use\n```\n# a comment\nls\n```\nDone.", chunk_words=80) == [
        Section("Use", "# a comment ls Done.")
    ]


def test_long_section_is_cut_between_sentences() -> None:
    text = " ".join(f"Sentence number {number} has seven words here." for number in range(10))
    parts = list(split_sentences(text, chunk_words=20))
    assert [len(part.split()) for part in parts] == [14] * 5
    assert " ".join(parts) == text


def test_sentence_longer_than_a_chunk_is_cut_inside_and_nothing_is_lost() -> None:
    text = " ".join(str(number) for number in range(50))
    parts = list(split_sentences(text, chunk_words=20))
    assert [len(part.split()) for part in parts] == [20, 20, 10]
    assert " ".join(parts) == text


def test_abbreviations_and_decimals_do_not_end_a_sentence() -> None:
    text = "It costs 9.50 € per day, e.g. on weekdays. The rest is free."
    first, second = split_sentences(text, chunk_words=9)
    assert (first, second) == ("It costs 9.50 € per day, e.g. on weekdays.", "The rest is free.")
