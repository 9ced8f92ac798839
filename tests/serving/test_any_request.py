"""Whatever fits the API's own description, and what just does not, is answered; without a key it is refused."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from serving.access import needed
from tests.conftest import Served


@pytest.fixture(scope="module")
def described(served: Served) -> Any:
    return schemathesis.openapi.from_url(f"{served.url}/openapi.json")


def each_operation(described: Any, holds: Callable[[Any], None], *, examples: int) -> None:
    """Try `holds` with requests that fit each operation's description, and with some that just do not."""
    settings = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    walked = 0
    for found in described.get_all_operations():
        settings(hypothesis.given(case=found.ok().as_strategy())(holds))()
        walked += 1
    assert walked > 30


def test_is_answered_with_a_key_and_refused_without(described: Any, served: Served) -> None:
    def holds(case: Any) -> None:
        answer = case.call(headers=served.authorized)
        assert answer.status_code < 500, (answer.status_code, answer.content[:300])
        if answer.status_code >= 400 and "application/json" in answer.headers.get("content-type", [""])[0]:
            assert answer.json()["error"]["message"]
        if needed(case.method, case.formatted_path) != "nothing":
            assert case.call().status_code == 401

    each_operation(described, holds, examples=20)


def test_is_answered_or_told_to_come_again_while_the_database_takes_nothing(
    described: Any, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = set()

    def refuse(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if not re.search(r"^BEGIN|\b(api_key|lease)\b", statement):  # who asks and who leads is known
            raise OperationalError(statement, {}, sqlite3.OperationalError("database or disk is full"))

    def refuse_rows(*_: object) -> int:
        raise sqlite3.OperationalError("database or disk is full")

    def holds(case: Any) -> None:
        answer = case.call(headers=served.authorized)
        assert answer.status_code < 500 or answer.status_code == 503, (answer.status_code, answer.content[:300])
        if answer.status_code == 503 and case.path != "/readyz":
            assert answer.json()["error"]["code"] == "unavailable"
            assert answer.headers["retry-after"] == ["1"]
            refused.add((case.method, case.path))

    event.listen(served.database, "before_cursor_execute", refuse)
    monkeypatch.setattr(served.app.appliance.writer, "_execute", refuse_rows)
    try:
        each_operation(described, holds, examples=5)
    finally:
        event.remove(served.database, "before_cursor_execute", refuse)
    assert len(refused) > 30, refused
