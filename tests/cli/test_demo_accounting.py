"""The demo's own arithmetic: which answers came from a wrong adapter, and how much better is better."""

from __future__ import annotations

from flywheel.demo.measure import MEASURES, measured, paired_difference
from flywheel.demo.people import Answer, liking
from flywheel.demo.questions import Question
from flywheel.demo.swap import Timeline, wrong_answers

WANTED = MEASURES[0]
GOOD, BAD = "The cancel fee is 12 euros [1].", "Great question! It is 12 euros. Have a wonderful day!"


def question(number: int, kind: str = "answerable") -> Question:
    return Question(
        id=f"q{number}",
        kind=kind,
        messages=[{"role": "user", "content": "How much?"}],
        expected=["12"],
    )


def answer(number: int, text: str, adapter: str = "old", *, asked_at: float = 0, answered_at: float = 1) -> Answer:
    return Answer(question(number), f"c{number}", text, adapter, 10, asked_at, answered_at)


def test_answer_by_an_adapter_that_was_not_live_is_wrong() -> None:
    timeline = Timeline({"old"})
    timeline.allow({"old", "new"}, since=10)
    timeline.allow({"new"}, since=11)
    early = answer(1, GOOD, "new", asked_at=8, answered_at=9)
    across = answer(2, GOOD, "old", asked_at=10.5, answered_at=12)
    late = answer(3, GOOD, "old", asked_at=11.5, answered_at=12)
    fine = answer(4, GOOD, "new", asked_at=11.5, answered_at=12)
    assert wrong_answers([early, across, late, fine], timeline, greedy={}) == [early, late]


def test_answer_with_the_other_adapters_words_is_wrong_even_if_its_name_is_right() -> None:
    greedy = {("q1", "old"): BAD, ("q1", "new"): GOOD}
    liar, honest = answer(1, GOOD, "old"), answer(1, BAD, "old")
    assert wrong_answers([liar, honest], Timeline({"old"}), greedy=greedy) == [liar]


def test_liking_counts_the_fact_and_the_style() -> None:
    assert liking(question(1), GOOD) == 2
    assert liking(question(1), BAD) == 1
    assert liking(question(1), GOOD.replace("12", "13")) == 1
    assert liking(question(1), BAD.replace("12", "13")) == 0
    assert liking(question(1, "unanswerable"), "I do not know, the passages do not say.") == 2
    assert liking(question(1, "unanswerable"), GOOD) == 0


def test_paired_difference_counts_each_question_once_and_widens_with_doubt() -> None:
    before = [answer(number, BAD) for number in range(40)]
    after = [answer(number, GOOD if number < 30 else BAD) for number in range(40)]
    change, low, high = paired_difference(before, after, WANTED)
    assert change == 0.75
    assert 0.55 < low < change < high < 0.95
    assert paired_difference(before[:1], after[:1], WANTED)[1] <= 0


def test_measures_leave_out_questions_they_make_no_sense_for() -> None:
    found = measured([answer(1, GOOD), answer(2, BAD)])
    assert found["wanted_behaviour"]["of"] == 2
    assert found["fact_accuracy"]["rate"] == 1.0
    assert "honest_when_unanswerable" not in found
