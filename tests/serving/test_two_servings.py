"""Two real servings on one PostgreSQL, before one engine: neither touches what the other is answering."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from sqlmodel import col, select

from benchmarks.processes import Server, answers, free_port, mock_engine, plain_environment
from flywheel.database import open_database, reading
from flywheel.interactions import OPEN, Interaction
from tests.conftest import wait_until

SLOW = {
    "model": "flywheel-plain",
    "messages": [{"role": "user", "content": "Slowly, please: chunks=40 delay=0.5"}],
    "stream": True,
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_one_that_starts_leaves_open_what_the_other_is_answering(database_url: str, tmp_path: Path) -> None:
    database = open_database(database_url)

    def slow_row() -> Interaction:
        with reading(database) as session:
            rows = session.exec(select(Interaction).where(col(Interaction.request_id) == "slow"))
            return rows.one()

    async def run(urls: list[str], servers: list[Server]) -> None:
        async with aiohttp.ClientSession(headers={"x-request-id": "slow"}) as http, aiohttp.ClientSession() as other:
            servers[0].start()
            await answers(other, urls[0])
            async with http.post(f"{urls[0]}/v1/chat/completions", json=SLOW) as response:
                await response.content.readline()
                servers[1].start()
                await answers(other, urls[1])
                assert slow_row().status == OPEN

    ports = [free_port(), free_port()]
    with mock_engine() as engine:
        shared = {"FLYWHEEL_DATABASE_URL": database_url}
        servers = [Server(plain_environment(tmp_path, port=port, engine=engine) | shared) for port in ports]
        try:
            asyncio.run(run([f"http://127.0.0.1:{port}" for port in ports], servers))
            wait_until(lambda: slow_row().status != OPEN)
        finally:
            for server in servers:
                server.stop()
    row = slow_row()
    database.dispose()
    assert row.status == "cancelled"  # our leaving closed it, and nobody before us
    assert row.answer
