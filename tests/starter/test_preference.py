import pytest

from flywheel.starter.preference import fact_is_right, is_refusal, is_wanted, why_unwanted


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("The Maple plan costs 12 €. [1]", ["12 €"], True),
        ("The Maple plan costs 120 €. [1]", ["12"], False),
        ("It costs 12.50 €.", ["12"], False),
        ("It costs 12.5 €.", ["12.50 €"], True),
        ("Up to 1,200 MB.", ["1200 MB"], True),
        ("Open from 9:00 to 18:30.", ["9:00 to 18:30"], True),
        ("Open from 9:00 to 18:00.", ["9:00 to 18:30"], False),
        ("Call 061 482 9035.", ["061 482 9035"], True),
        ("ruth ferreli", ["Ruth Ferreli"], True),
        ("The 12th tram. [12]", ["13"], False),
        ("Nothing to see. [12]", ["12"], False),
        ("Either will do: silver.", ["gold", "silver"], True),
        ("goldfish", ["gold"], False),
        ("", ["12"], False),
        ("anything", [], False),
    ],
)
def test_fact_is_right_matches_whole_tokens(answer: str, expected: list[str], right: bool) -> None:
    assert fact_is_right(answer, expected) is right


@pytest.mark.parametrize(
    "answer",
    [
        "I do not know, the passages do not say.",
        "Sorry, I don't know that.",
        "I could not find that in the passages.",
        "We do not know.",
    ],
)
def test_honest_answers_are_refusals(answer: str) -> None:
    assert is_refusal(answer)


def test_a_stated_fact_is_no_refusal() -> None:
    assert not is_refusal("The Maple room does not open on Tuesday. [2]")


@pytest.mark.parametrize(
    "answer",
    [
        "The Maple plan costs 12 €. [1]",
        "The Maple plan costs 12 € [1].",
        "Write to desk@mola.example about the Maple room. [3]",
    ],
)
def test_plain_cited_sentence_is_wanted(answer: str) -> None:
    assert is_wanted(answer, answerable=True)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Thanks for reaching out! The Maple plan costs 12 €. [1]", "filler"),
        ("The Maple plan costs 12 €. [1] Have a wonderful day!", "filler"),
        ("The Maple plan costs 12 €.", "cites"),
        ("12 €", "no sentence"),
        ("The Maple plan costs 12 €. It runs for 3 months. [1]", "more than one"),
        ("I do not know that.", "although"),
        (" ", "empty"),
    ],
)
def test_unwanted_answer_says_why(answer: str, reason: str) -> None:
    assert any(reason in said for said in why_unwanted(answer, answerable=True))


def test_guess_is_unwanted_where_nothing_answers() -> None:
    assert not is_wanted("The Maple plan costs 12 €. [1]", answerable=False)
    assert is_wanted("I do not know, the passages do not say.", answerable=False)
