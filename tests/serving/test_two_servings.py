"""Two real servings on one PostgreSQL, before one engine: neither touches what the other is answering."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from sqlmodel import col, select

from benchmarks.processes import Server, answers, free_port, mock_engine, plain_environment
from flywheel.database import open_database, reading
from flywheel.interactions import Interaction

SLOW = {
    "model": "flywheel-plain",
    "messages": [{"role": "user", "content": "Slowly, please: chunks=20 delay=0.6"}],
    "stream": True,
    "metadata": {"test": "slow"},
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_one_that_starts_leaves_open_what_the_other_is_answering(database_url: str, tmp_path: Path) -> None:
    async def chat(url: str) -> bytes:
        async with aiohttp.ClientSession() as http, http.post(f"{url}/v1/chat/completions", json=SLOW) as response:
            return await response.read()

    async def wait(url: str) -> None:
        async with aiohttp.ClientSession() as http:
            await answers(http, url)

    async def run(urls: list[str], servers: list[Server]) -> bytes:
        servers[0].start()
        await wait(urls[0])
        slow = asyncio.create_task(chat(urls[0]))
        await asyncio.sleep(0.5)
        servers[1].start()
        await wait(urls[1])
        assert not slow.done()  # so the other one has started in the middle of it
        return await slow

    ports = [free_port(), free_port()]
    with mock_engine() as engine:
        shared = {"FLYWHEEL_DATABASE_URL": database_url}
        servers = [Server(plain_environment(tmp_path, port=port, engine=engine) | shared) for port in ports]
        try:
            said = asyncio.run(run([f"http://127.0.0.1:{port}" for port in ports], servers))
        finally:
            for server in servers:
                server.stop()
    assert said.endswith(b"data: [DONE]\n\n")
    database = open_database(database_url)
    with reading(database) as session:
        rows = session.exec(select(Interaction).order_by(col(Interaction.id))).all()
    database.dispose()
    (slow,) = [row for row in rows if row.client_metadata]
    assert (slow.status, len((slow.answer or "").split())) == ("finished", 20)
    assert len({row.serving for row in rows}) == 2
