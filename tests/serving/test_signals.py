"""Which closed answers a look at implicit signals reads again."""

from __future__ import annotations

from sqlalchemy import Engine as Database

from flywheel.database import now, writing
from flywheel.interactions import OPEN, Interaction
from serving.signals import find_signals
from tests.made_records import made_interaction


def test_a_closed_answer_is_read_once_and_again_only_while_the_one_before_it_is_open(database: Database) -> None:
    with writing(database) as session:
        first = made_interaction(session, status=OPEN, answer=None)
        second = made_interaction(session, finished_at=now())
    found, again = find_signals(database, [second.id, first.id])
    assert {row.name for row in found} == {"regenerate"}
    assert again == {first.id, second.id}
    with writing(database) as session:
        row = session.get_one(Interaction, first.id)
        row.status, row.finished_at = "finished", now()
    found, again = find_signals(database, [second.id, first.id])
    assert {row.name for row in found} == {"regenerate", "next_turn_seconds"}  # the first was never stored here
    assert again == set()
    with writing(database) as session:
        session.add_all(found)
    assert find_signals(database, [second.id, first.id]) == ([], set())


def test_only_a_turn_of_the_same_people_is_the_one_before(database: Database) -> None:
    with writing(database) as session:
        rows = [
            made_interaction(session, finished_at=now(), unit="u", **who)
            for who in (
                {"user": None},
                {"user": None},  # strangers who ask the same
                {"user": None, "client_metadata": {"conversation_id": "c1"}},  # says which conversation it goes on with
                {"tenant": "acme"},
                {"conversation": "another"},
            )
        ]
        ids = [row.id for row in rows]
    found, again = find_signals(database, ids)
    assert {(row.completion_id, row.key) for row in found} == {(ids[1], ids[2])}
    assert again == set()


def test_what_was_left_before_its_end_is_abandoned(database: Database) -> None:
    with writing(database) as session:
        left = made_interaction(session, status="cancelled", finished_at=now()).id
    found, again = find_signals(database, [left])
    assert [(row.completion_id, row.name) for row in found] == [(left, "abandon")]
    assert again == set()
