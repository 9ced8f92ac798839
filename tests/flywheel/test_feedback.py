from __future__ import annotations

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError
from sqlmodel import select

from flywheel.database import reading, writing
from flywheel.errors import UserError
from flywheel.feedback import Feedback, feedback_history, new_feedback, newest_rating_ids, score_of
from tests.made_records import made_interaction, made_rating


@pytest.mark.parametrize(("value", "score"), [(False, 0.0), (True, 1.0), (1, 0.0), (2, 0.25), (3, 0.5), (5, 1.0)])
def test_thumbs_and_stars_share_one_scale(value: bool | int, score: float) -> None:
    assert score_of(value) == score


@pytest.mark.parametrize("value", [0, 6, -1, 5.1, float("nan")])
def test_rating_outside_the_stars_is_refused(value: float) -> None:
    with pytest.raises(UserError, match="1 to 5"):
        score_of(value)


def test_rating_without_a_value_is_refused() -> None:
    with pytest.raises(UserError, match="needs a value"):
        new_feedback(
            tenant="default", completion_id="c", name="rating", value=None, text="nice", source="user", actor=None
        )


def test_feedback_that_says_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="a value, a comment or a correction"):
        new_feedback(
            tenant="default", completion_id="c", name="comment", value=None, text="", source="user", actor=None
        )


def test_unknown_source_is_refused() -> None:
    with pytest.raises(UserError, match="source is one of"):
        new_feedback(tenant="default", completion_id="c", name="rating", value=1, text=None, source="bot", actor=None)


def test_changing_ones_mind_keeps_the_history_and_counts_the_newest(database: Engine) -> None:
    with writing(database) as session:
        row = made_interaction(session)
        first = made_rating(session, row, True)
        second = made_rating(session, row, False)
        other = made_rating(session, row, 4, actor="bob")
        history, counting = feedback_history(session, row.id), newest_rating_ids(session)
    assert [one.id for one in history] == [first.id, second.id, other.id]
    assert sorted(counting) == sorted([second.id, other.id])


def test_feedback_on_an_unknown_completion_is_refused_by_the_database(database: Engine) -> None:
    with pytest.raises(IntegrityError), writing(database) as session:
        row = made_interaction(session)
        made_rating(session, row, True)
        session.add(
            Feedback(**(session.exec(select(Feedback)).one().model_dump() | {"id": "fb-2", "completion_id": "?"}))
        )


def test_feedback_leaves_with_its_interaction(database: Engine) -> None:
    with writing(database) as session:
        row = made_interaction(session)
        made_rating(session, row, True)
    with writing(database) as session:
        session.delete(session.get_one(type(row), row.id))
    with reading(database) as session:
        assert session.exec(select(Feedback)).all() == []
