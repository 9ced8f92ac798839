"""One write to the socket for what an answer says in one go."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import uvicorn
from uvicorn.server import ServerState

from serving.http import ClientConnection, Joined, Listener


class Kept:
    """A transport that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        self.told.append(data)

    def close(self) -> None:
        self.told.append("closed")

    def is_closing(self) -> bool:
        return "closed" in self.told


async def nobody(_scope: Any, _receive: Any, _send: Any) -> None:
    """An app that is never asked."""


async def joined() -> tuple[Any, Kept]:
    kept = Kept()
    return Joined(cast(Any, kept), asyncio.get_running_loop()), kept


def test_what_is_written_without_a_wait_leaves_together() -> None:
    async def run() -> None:
        transport, kept = await joined()
        transport.write(b"head")
        transport.write(b"body")
        assert kept.told == []
        await asyncio.sleep(0)
        assert kept.told == [b"headbody"]

    asyncio.run(run())


def test_words_between_which_others_had_their_turn_leave_one_by_one() -> None:
    async def run() -> None:
        transport, kept = await joined()
        for word in (b"one", b"two"):
            transport.write(word)
            await asyncio.sleep(0)
        assert kept.told == [b"one", b"two"]

    asyncio.run(run())


def test_closing_sends_what_waits_first() -> None:
    async def run() -> None:
        transport, kept = await joined()
        transport.write(b"last words")
        transport.close()
        await asyncio.sleep(0)
        assert kept.told == [b"last words", "closed"]
        assert transport.is_closing()  # everything else is the transport's own

    asyncio.run(run())


def test_who_answers_is_told_at_once_that_the_client_is_gone_also_when_it_went_before() -> None:
    async def run() -> None:
        connection = ClientConnection(uvicorn.Config(nobody, log_config=None), ServerState(), {})
        connection.transport = cast(Any, Kept())
        told: list[str] = []
        connection.when_gone(lambda: told.append("said all"))
        connection.when_gone(None)
        connection.when_gone(lambda: told.append("went"))
        connection.connection_lost(ConnectionResetError())
        connection.when_gone(lambda: told.append("had gone"))
        assert told == ["went", "had gone"]

    asyncio.run(run())


def test_listener_hears_of_it_from_any_server() -> None:
    messages = iter([{"type": "http.request"}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(messages)

    async def run(*, listening: bool) -> list[str]:
        told: list[str] = []
        listener = Listener(receive)
        listener(lambda: told.append("went"))
        if not listening:
            listener(None)
        await asyncio.sleep(0.01)
        return told

    assert asyncio.run(run(listening=False)) == []
    assert asyncio.run(run(listening=True)) == ["went"]
