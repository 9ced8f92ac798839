"""Keys, and clients that speak with one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta

import httpx
import openai
import pytest
from sqlalchemy import Engine

from flywheel.database import writing
from flywheel.keys import Limits, Scope, create_key
from serving.writer import RecordWriter
from tests.conftest import Served

Make = Callable[..., str]


def bearer(secret: str) -> dict[str, str]:
    """Headers."""
    return {"authorization": f"Bearer {secret}"}


@pytest.fixture(scope="module")
def make(served: Served) -> Make:
    """A new key's secret."""

    def key(scope: Scope, *, tenant: str = "default", days: float | None = None, **limits: int) -> str:
        with writing(served.database) as session:
            return create_key(
                session,
                tenant=tenant,
                name="somebody",
                scope=scope,
                actor="test",
                lifetime=timedelta(days=days) if days is not None else None,
                limits=Limits(**limits),
            )[1]

    return key


@pytest.fixture
def speak(served: Served) -> Iterator[Callable[[str], httpx.Client]]:
    """A client with a given key, closed at the end."""
    with ExitStack() as stack:
        yield lambda secret: stack.enter_context(httpx.Client(base_url=served.url, headers=bearer(secret), timeout=60))


@pytest.fixture
def stock(served: Served) -> Iterator[Callable[[str], openai.OpenAI]]:
    """The stock client with a given key."""
    with ExitStack() as stack:
        yield lambda secret: stack.enter_context(
            openai.OpenAI(base_url=f"{served.url}/v1", api_key=secret, max_retries=0, timeout=60)
        )


@pytest.fixture(scope="module")
def plain(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=60) as found:
        yield found


@pytest.fixture
def writer(database: Engine) -> Iterator[RecordWriter]:
    found = RecordWriter(database, limit=1000)
    found.start()
    yield found
    found.close()
