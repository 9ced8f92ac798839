"""Which closed answers a look at implicit signals reads again, and which turn counts as the one before."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine as Database

from flywheel.database import now, writing
from flywheel.interactions import OPEN, Interaction
from flywheel.settings import load_settings
from serving.app import open_appliance
from serving.conversations import Conversations, Over
from serving.records import several_servings
from serving.signals import closed_lately, find_signals
from tests.made_records import made_interaction


def lately(database: Database) -> list[Over]:
    """What a serving that starts looks at."""
    return closed_lately(database, "default") if several_servings(database) else Conversations().read(database)


def test_a_closed_answer_is_read_once_and_again_only_while_the_one_before_it_is_open(database: Database) -> None:
    with writing(database) as session:
        first = made_interaction(session, status=OPEN, answer=None)
        second = made_interaction(session, finished_at=now())
    closed = [Over(second.id, left=False, before=first.id)]
    found, again = find_signals(database, closed)
    assert {row.name for row in found} == {"regenerate"}
    assert again == {second.id}
    with writing(database) as session:
        row = session.get_one(Interaction, first.id)
        row.status, row.finished_at = "finished", now()
    found, again = find_signals(database, closed)
    assert {row.name for row in found} == {"regenerate", "next_turn_seconds"}  # the first was never stored here
    assert again == set()
    with writing(database) as session:
        session.add_all(found)
    assert find_signals(database, closed) == ([], set())


def test_a_row_that_is_not_yet_seen_closed_is_looked_at_again(database: Database) -> None:
    with writing(database) as session:
        first = made_interaction(session, finished_at=now())
        second = made_interaction(session, status=OPEN, answer=None)
    assert find_signals(database, [Over(second.id, left=False, before=first.id)]) == ([], {second.id})


def test_only_a_turn_of_the_same_people_is_the_one_before(database: Database) -> None:
    with writing(database) as session:
        rows = [
            made_interaction(session, finished_at=now(), unit="u", **who)
            for who in (
                {"user": None},
                {"user": None},  # strangers who ask the same
                {"user": None, "client_metadata": {"conversation_id": ""}},
                {"user": None, "client_metadata": {"conversation_id": "c1"}},
                {"user": None, "client_metadata": {"conversation_id": "c1"}},
                {"tenant": "acme"},
                {"conversation": "another"},
            )
        ]
        ids = [row.id for row in rows]
    found, again = find_signals(database, lately(database))
    assert {(row.completion_id, row.key) for row in found} == {(ids[3], ids[4])}
    assert again == set()


def test_what_was_left_before_its_end_is_abandoned(database: Database) -> None:
    with writing(database) as session:
        left = made_interaction(session, status="cancelled", user=None, unit="u", finished_at=now()).id
    found, again = find_signals(database, lately(database))
    assert [(row.completion_id, row.name) for row in found] == [(left, "abandon")]
    assert again == set()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_serving_that_starts_knows_the_turns_before_and_looks_at_the_last_hour(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writing(database) as session:
        old = made_interaction(session, finished_at=now(), asked_at=now() - timedelta(hours=2)).id
        new = made_interaction(session, finished_at=now()).id
    monkeypatch.setattr("serving.app._load_library", lambda _appliance: None)

    async def start() -> tuple[list[Over], str | None]:
        async with open_appliance(load_settings(home=tmp_path), database) as appliance:
            assert appliance.conversations is not None
            return list(appliance.closed), appliance.conversations.follow("default", "c1", "chatcmpl-next")

    assert asyncio.run(start()) == ([Over(new, left=False, before=old)], new)


def test_conversations_that_were_silent_longest_are_forgotten() -> None:
    conversations = Conversations(most=2)
    assert [conversations.follow("t", name, f"{name}1") for name in ("a", "b")] == [None, None]
    assert conversations.follow("t", "a", "a2") == "a1"
    assert conversations.follow("t", "c", "c1") is None  # b was silent longest
    assert conversations.follow("t", "b", "b2") is None
    assert conversations.follow("t", "c", "c2") == "c1"
    assert conversations.follow("other", "c", "c3") is None
    assert [conversations.follow("t", "x" * 1000, f"long{number}") for number in range(2)] == [None, None]
    assert conversations.follow("t", "c", "c4") == "c2"  # and pushes nobody out
