"""The rules of implicit signals, one by one, on two neighbouring requests."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from flywheel.database import now
from flywheel.implicit import about_earlier, about_itself
from flywheel.interactions import Interaction

ASKED = now()
ANSWER = "The Maple plan costs 12 euros a month and you can cancel it at any time."
QUESTION = {"role": "user", "content": "How much is the Maple plan a month?"}


def row(name: str, **values: Any) -> Interaction:
    given: dict[str, Any] = {
        "request_id": "r", "conversation": "c", "unit": "u", "alias": "a", "status": "finished",
        "answer": ANSWER, "asked_at": ASKED, "finished_at": ASKED + timedelta(seconds=2),
    }  # fmt: skip
    return Interaction(id=name, **(given | {"messages": [QUESTION]} | values))


def found(second: list[dict[str, Any]], **values: Any) -> dict[str, float]:
    later = row("second", messages=second, asked_at=ASKED + timedelta(seconds=12))
    signals = about_earlier(row("first", **values), later)
    assert {(signal.completion_id, signal.because) for signal in signals} <= {("first", "second")}
    return {signal.name: signal.value for signal in signals}


def then(said: str, answer: str = ANSWER) -> list[dict[str, Any]]:
    return [QUESTION, {"role": "assistant", "content": answer}, {"role": "user", "content": said}]


def test_same_messages_again_are_a_regeneration() -> None:
    assert found([QUESTION]) == {"regenerate": 1.0, "next_turn_seconds": 10.0}


def test_question_in_nearly_the_same_words_is_a_reask() -> None:
    assert found(then("how much is the Maple plan, a month?"))["reask"] == 1.0
    assert found(then("How much is the Maple plan a year?"))["reask"] == pytest.approx(7 / 9)
    assert "reask" not in found(then("When does it end?"))


def test_answer_sent_back_changed_is_an_edit_by_the_share_that_changed() -> None:
    assert found(then("Fine.", ANSWER.replace("12", "13")))["edit"] == pytest.approx(1 / 16)
    assert "edit" not in found(then("Fine."))
    assert "edit" not in found(then("Fine.", "Something else altogether, from another place."))


def test_eight_words_of_the_answer_in_the_next_question_are_a_copy() -> None:
    share = found(then("You say 'you can cancel it at any time' and the month and"))
    assert "copy" not in share
    assert found(then("Is 'costs 12 euros a month and you can cancel' true?"))["copy"] == pytest.approx(9 / 16)


def test_row_without_words_gives_no_signal_about_words() -> None:
    assert found(then("Fine."), messages=[], answer=None) == {"next_turn_seconds": 10.0}


def test_answer_that_was_left_is_abandoned() -> None:
    assert [signal.name for signal in about_itself(row("x", status="cancelled"))] == ["abandon"]
    assert about_itself(row("x")) == []
