"""Users who write down what the server has acknowledged, to be held against its record afterwards."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random

import aiohttp
import orjson

STREAMED = 0.6
RATES = 0.7


@dataclass
class Notes:
    """What the clients were told, over all lives of the server."""

    begun: set[str] = field(default_factory=set)
    """Completions whose first byte came."""
    done: dict[str, str] = field(default_factory=dict)
    """Completions whose end came: their text."""
    rated: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """Ratings that were acknowledged, by the client's id."""
    unsure: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """Ratings that were sent, and the server died: sent again in its next life."""
    refused: int = 0


class Client:
    """One of the concurrent users: asks, reads, rates, until the server is gone."""

    def __init__(self, url: str, notes: Notes, http: aiohttp.ClientSession, random: Random) -> None:
        self.url, self.notes, self.http, self.random = url, notes, http, random

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                if self.notes.unsure:
                    key, (completion_id, value) = self.notes.unsure.popitem()
                    await self.rate(key, completion_id, value=value)
                answered = await self._ask()
                if answered and self.random.random() < RATES:
                    key = f"rating-{self.random.getrandbits(64):x}"
                    await self.rate(key, answered, value=self.random.random() < 0.5)
            except (aiohttp.ClientError, asyncio.IncompleteReadError, ConnectionError):
                await asyncio.sleep(0.01)

    async def _ask(self) -> str | None:
        streamed = self.random.random() < STREAMED
        wish = f"chunks={self.random.randint(1, 12)} delay={self.random.choice([0, 0.002, 0.01])}"
        body = {
            "model": "flywheel-plain",
            "stream": streamed,
            "user": f"user-{self.random.randint(0, 200)}",
            "messages": [{"role": "user", "content": wish}],
        }
        async with self.http.post(f"{self.url}/v1/chat/completions", json=body) as response:
            if response.status != 200:
                self.notes.refused += 1
                await asyncio.sleep(0.02)
                return None
            return await (self._read_stream(response) if streamed else self._read_whole(response))

    async def _read_whole(self, response: aiohttp.ClientResponse) -> str:
        answer = orjson.loads(await response.read())
        self.notes.done[answer["id"]] = answer["choices"][0]["message"]["content"]
        return str(answer["id"])

    async def _read_stream(self, response: aiohttp.ClientResponse) -> str | None:
        completion_id, text = "", ""
        async for line in response.content:
            if line == b"data: [DONE]\n":
                self.notes.done[completion_id] = text
                return completion_id
            if line.startswith(b"data: {"):
                chunk = orjson.loads(line[6:])
                completion_id = chunk["id"]
                self.notes.begun.add(completion_id)
                text += chunk["choices"][0]["delta"]["content"] if chunk["choices"] else ""
        return None

    async def rate(self, key: str, completion_id: str, *, value: bool) -> None:
        """Say it under `key`; noted as unsure until it is acknowledged."""
        self.notes.unsure[key] = (completion_id, value)
        body = {"completion_id": completion_id, "value": value, "id": key, "user": key}
        async with self.http.post(f"{self.url}/v1/feedback", json=body) as response:
            await response.read()
            if response.status == 200:
                self.notes.rated[key] = (completion_id, value)
                self.notes.unsure.pop(key, None)
