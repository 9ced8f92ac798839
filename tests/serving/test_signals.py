"""Which closed answers a look at implicit signals reads again."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Engine as Database

from flywheel.database import now, writing
from flywheel.interactions import OPEN, Interaction
from serving.signals import find_signals
from tests.made_records import made_interaction

SINCE = now() - timedelta(minutes=5)


def test_a_closed_answer_is_read_once_and_again_only_while_the_one_before_it_is_open(database: Database) -> None:
    with writing(database) as session:
        first = made_interaction(session, status=OPEN, answer=None)
        second = made_interaction(session, finished_at=now())
    found, settled = find_signals(database, "default", SINCE, set())
    assert {row.name for row in found} == {"regenerate"}
    assert second.id not in settled
    with writing(database) as session:
        row = session.get_one(Interaction, first.id)
        row.status, row.finished_at = "finished", now()
    found, settled = find_signals(database, "default", SINCE, settled)
    assert {row.name for row in found} == {"regenerate", "next_turn_seconds"}  # the first was never stored here
    assert settled == {first.id, second.id}
    assert find_signals(database, "default", SINCE, settled) == ([], settled)
