"""Latency, speed, errors and cost, against figures worked out by hand."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import Engine

from flywheel.database import now, reading, writing
from flywheel.usage import Prices, percentiles, usage
from tests.made_records import made_interaction, made_rating

PRICES = Prices(prompt=2.0, completion=10.0)


def test_by_alias_and_arm(database: Engine) -> None:
    begun = now() - timedelta(hours=1)
    with writing(database) as session:
        for number, (arm, status) in enumerate(
            [("champion", "finished"), ("champion", "failed"), ("challenger", "finished"), ("champion", "finished")]
        ):
            made_interaction(
                session,
                arm=arm,
                status=status,
                asked_at=begun,
                first_token_at=begun + timedelta(seconds=1) if number == 0 else None,
                finished_at=begun + timedelta(seconds=2 + number),
                prompt_tokens=100,
                completion_tokens=50,
            )
        made_interaction(session, asked_at=begun - timedelta(hours=5), finished_at=begun, tenant="default")
        made_interaction(session, asked_at=begun, finished_at=begun, tenant="other")
    with reading(database) as session:
        champion, challenger = usage(session, tenant="default", since=begun - timedelta(hours=1), prices=PRICES)
    assert (champion.arm, champion.chats, challenger.arm, challenger.chats) == ("champion", 3, "challenger", 1)
    assert champion.error_rate == pytest.approx(1 / 3)
    assert champion.seconds == pytest.approx({"p50": 3.5, "p95": 4.85, "p99": 4.97})  # of 2 and 5 seconds
    assert champion.first_token_seconds == {"p50": 1, "p95": 1, "p99": 1}
    assert champion.tokens_per_second == pytest.approx(100 / 7)
    assert champion.cost == pytest.approx((300 * 2 + 150 * 10) / 1e6)
    assert champion.cost_per_chat == pytest.approx(champion.cost / 3)
    assert challenger.first_token_seconds is None


def test_each_user_counts_once_with_their_newest_ratings(database: Engine) -> None:
    with writing(database) as session:
        for user, likes in (("ann", (True, True, True)), ("ben", (False,)), ("cal", ())):
            for liked in likes or (None,):
                row = made_interaction(session, user=user, arm="holdout", finished_at=now())
                if liked is not None:
                    made_rating(session, row, not liked)
                    made_rating(session, row, liked)  # a change of mind
        row = made_interaction(session, user="dan", arm="holdout", finished_at=now())
        made_rating(session, row, False, source="reviewer")
    with reading(database) as session:
        [holdout] = usage(session, tenant="default", since=now() - timedelta(hours=1), prices=PRICES)
    assert (holdout.rated_users, holdout.rating) == (2, 0.5)


def test_percentiles_of_nothing_are_none() -> None:
    assert percentiles([]) is None
