"""Users who ask the same short questions greedily, so that every answer tells which adapter spoke.

A question is used only if every adapter says something of its own to it, by a clear margin at each token: then rounding
in a batch cannot change a word, and an answer that is not its adapter's is another's or a mixture.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from serving.engine import Engine

MARGIN_NATS = 0.05
"""Between the first and the second choice, at every token; a batch changes log-probabilities by about 1e-5."""
QUESTION_TOKENS = 6
STREAMED = 3, 4
"""Three of four requests."""
Fingerprints = dict[str, dict[str, str]]
"""{question: {adapter: what it says}}"""


@dataclass(slots=True)
class Heard:
    """One request, and what came of it."""

    question: str
    asked_at: float
    """time.monotonic(), as the other times."""
    streamed: bool = False
    first_at: float | None = None
    """When the first word came, of a stream."""
    over_at: float = 0.0
    status: int = 0
    """0: the connection failed."""
    trouble: str = ""
    adapter: str = ""
    """By the answer's header."""
    arm: str = ""
    completion_id: str = ""
    text: str = ""
    speakers: set[str] = field(default_factory=set)
    """By the body, or by each event of a stream."""

    @property
    def failed(self) -> bool:
        return self.status != 200 or bool(self.trouble)


class Crowd:
    """Users who ask one after the other, all at once, and what they heard."""

    def __init__(self, url: str, questions: list[str], *, key: str = "") -> None:
        self.heard: list[Heard] = []
        self._url, self._questions = url, questions
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._numbers = count()
        self._over = False
        self._awaited, self._reached = 0, asyncio.Event()

    @asynccontextmanager
    async def under_way(self, *, at_once: int) -> AsyncIterator[Crowd]:
        """For the length of the block; what is under way then is heard to its end."""
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(self._url, connector=connector, headers=self._headers) as http,
            asyncio.TaskGroup() as users,
        ):
            for _ in range(at_once):
                users.create_task(self._ask_on(http))
            yield self
            self._over = True

    async def until(self, requests: int) -> None:
        """Return once that many were heard."""
        self._awaited = requests
        self._reached.clear()
        if len(self.heard) < requests:
            await self._reached.wait()

    async def _ask_on(self, http: aiohttp.ClientSession) -> None:
        while not self._over:
            number = next(self._numbers)
            heard = Heard(self._questions[number % len(self._questions)], time.monotonic())
            heard.streamed = number % STREAMED[1] < STREAMED[0]
            try:
                await self._ask(http, heard, user=f"user-{number}")
            except (aiohttp.ClientError, TimeoutError) as error:
                heard.trouble = f"{type(error).__name__}: {error}"
            heard.over_at = time.monotonic()
            self.heard.append(heard)
            if len(self.heard) >= self._awaited:
                self._reached.set()
            if heard.failed:
                await asyncio.sleep(0.05)

    async def _ask(self, http: aiohttp.ClientSession, heard: Heard, *, user: str) -> None:
        body = greedy("flywheel-plain", heard.question) | {"user": user, "stream": heard.streamed}
        async with http.post("/v1/chat/completions", json=body) as response:
            heard.status = response.status
            heard.adapter = response.headers.get("x-flywheel-adapter", "")
            heard.arm = response.headers.get("x-flywheel-arm", "")
            if heard.streamed and response.status == 200:
                return await self._read_stream(heard, response)
            answer = orjson.loads(await response.read())
            if response.status == 200:
                _note(heard, answer, answer["choices"][0]["message"]["content"])
            else:
                heard.trouble = str(answer)
        return None

    async def _read_stream(self, heard: Heard, response: aiohttp.ClientResponse) -> None:
        whole = False
        async for line in response.content:
            if line == b"data: [DONE]\n":
                whole = True
            elif line.startswith(b'data: {"error"'):
                heard.trouble = line.decode().strip()
            elif line.startswith(b"data: {"):
                chunk = orjson.loads(line[6:])
                _note(heard, chunk, chunk["choices"][0]["delta"].get("content") or "" if chunk["choices"] else "")
                if heard.text and heard.first_at is None:
                    heard.first_at = time.monotonic()
        if not whole and not heard.trouble:
            heard.trouble = "the stream broke off"


def _note(heard: Heard, answer: dict[str, Any], words: str) -> None:
    heard.completion_id = answer["id"]
    heard.speakers.add(answer.get("system_fingerprint") or "")
    heard.text += words


def greedy(model: str, question: str, *, tokens: int = QUESTION_TOKENS) -> dict[str, Any]:
    """The request's body."""
    messages = [{"role": "user", "content": question}]
    return {"model": model, "messages": messages, "max_tokens": tokens, "temperature": 0}


async def said(engine: Engine, adapter: str, question: str) -> tuple[str, float]:
    """What an adapter says, and by how many nats its least certain token was the first choice."""
    body = greedy(adapter, question) | {"logprobs": True, "top_logprobs": 2}
    choice = (await engine.complete(body))["choices"][0]
    pairs = [token["top_logprobs"] for token in choice["logprobs"]["content"]]
    return choice["message"]["content"], min(first["logprob"] - second["logprob"] for first, second in pairs)


async def fingerprints(engines: list[Engine], adapters: dict[str, Path], questions: list[str]) -> Fingerprints:
    """What each adapter says, by every engine alike. `adapters`: {name: folder}; they are loaded one after the other.

    Raises RuntimeError when fewer than three questions tell all adapters apart.
    """
    found: Fingerprints = {question: {} for question in questions}
    for engine in engines:
        for name, folder in adapters.items():
            await engine.load(name, folder)
            for question in list(found):
                text, margin = await said(engine, name, question)
                if margin < MARGIN_NATS or found[question].setdefault(name, text) != text:
                    del found[question]
            await engine.unload(name)
    telling = {question: words for question, words in found.items() if len(set(words.values())) == len(adapters)}
    if len(telling) < 3:
        raise RuntimeError(f"only {len(telling)} of {len(questions)} questions tell the adapters apart")
    return telling
