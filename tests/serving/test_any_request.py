"""Whatever fits the API's own description, and what just does not, is answered; without a key it is refused."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck

from serving.access import needed
from tests.conftest import Served

EXAMPLES = 20


@pytest.fixture(scope="module")
def described(served: Served) -> Any:
    return schemathesis.openapi.from_url(f"{served.url}/openapi.json")


def test_is_answered_with_a_key_and_refused_without(described: Any, served: Served) -> None:
    walked = 0
    for found in described.get_all_operations():
        operation = found.ok()

        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            database=None,
        )
        @hypothesis.given(case=operation.as_strategy())
        def holds(case: Any) -> None:
            answer = case.call(headers=served.authorized)
            assert answer.status_code < 500, (answer.status_code, answer.content[:300])
            if answer.status_code >= 400 and "application/json" in answer.headers.get("content-type", [""])[0]:
                assert answer.json()["error"]["message"]
            if needed(case.method, case.formatted_path) != "nothing":
                assert case.call().status_code == 401

        holds()
        walked += 1
    assert walked > 30
