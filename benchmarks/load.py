"""Chats at a steady concurrency, from this process, as cheaply as they can be asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import orjson

from benchmarks.peers import Gateway
from serving.upstream import Upstream

SILENCE_SECONDS = 30.0


@dataclass
class Load:
    """What came of it."""

    seconds: list[float] = field(default_factory=list)
    """One request each, to its last byte."""
    chunks: int = 0
    """Streamed events with words in them."""
    wall: float = 0.0

    @property
    def p50(self) -> float:
        return sorted(self.seconds)[len(self.seconds) // 2]


class Clients:
    """Users of one gateway, whose connections are kept between rounds."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self._upstream = Upstream(gateway.url)
        self._asked = count()
        self._headers = {"authorization": f"Bearer {gateway.key}"}

    async def chats(
        self, requests: int, *, at_once: int, wish: str = "", stream: bool = False, **parameters: Any
    ) -> Load:
        """Ask `requests` times, `at_once` at a time. `wish` is what the mock engine is told. Raises RuntimeError."""
        load, numbers = Load(), iter(range(requests))
        begun = time.perf_counter()
        await asyncio.gather(
            *(self._one_user(load, numbers, wish, {"stream": stream, **parameters}) for _ in range(at_once))
        )
        load.wall = time.perf_counter() - begun
        return load

    async def _one_user(self, load: Load, numbers: Iterator[int], wish: str, parameters: dict[str, Any]) -> None:
        for _ in numbers:
            number = next(self._asked)  # no two questions are alike, or they would be one conversation
            words = f"Question {number}: how much is the Maple plan for a team of five? {wish}"
            body = {
                "model": self.gateway.model,
                "messages": [{"role": "user", "content": words}],
                "user": f"user-{number % 500}",
                **parameters,
            }
            begun = time.perf_counter()
            try:
                async with self._upstream.ask(
                    "POST", "/chat/completions", orjson.dumps(body), self._headers, silence=SILENCE_SECONDS
                ) as answer:
                    status, whole = answer.status, await answer.read()
            except OSError as error:
                raise RuntimeError(f"{self.gateway.name}: {error}") from error
            if status != 200:
                raise RuntimeError(f"{self.gateway.name}: {status} {whole.decode(errors='replace')[:500]}")
            load.seconds.append(time.perf_counter() - begun)
            load.chunks += whole.count(b'"content":"') if parameters["stream"] else 0

    def close(self) -> None:
        self._upstream.close()
