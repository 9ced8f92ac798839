"""Two replicas without HTTP that outlive their controller, a clock to turn on, and a death at a chosen step."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import event
from sqlmodel import Session

from flywheel import leases
from flywheel.database import now
from serving import leadership, merged, reconcile
from serving.engine import Engine
from tests.made_control import Control

URLS = ["http://one", "http://two"]
ANY = "http://any"
LOG_PROBS = [-1.0, -1.0]


class Killed(BaseException):
    """No `except Exception` hears of it, as nobody hears of SIGKILL."""


class Death:
    """The controller dies at one step, before or after it took effect, and does nothing from then on."""

    def __init__(self, place: str, step: str, moment: str, *, number: int = 1) -> None:
        self._at, self._number, self._dead = (place, step, moment), number, False

    def pass_by(self, *at: str) -> None:
        self._number -= at[1:] == self._at[1:] and self._at[0] in (at[0], ANY)
        self._dead = self._dead or self._number == 0
        if self._dead:
            raise Killed

    @contextmanager
    def awaiting(self, control: Control) -> Iterator[None]:
        """What an engine is asked is a step, and what the database is told to keep."""
        listeners = [
            (control.database, "commit", lambda _: self.pass_by("database", "commit", "before")),
            (Session, "after_commit", lambda _: self.pass_by("database", "commit", "after")),
        ]
        for engine in control.pool.engines:
            assert isinstance(engine, Replica)
            engine.pass_by = partial(self.pass_by, engine.url)
        for listener in listeners:
            event.listen(*listener)
        try:
            yield
        finally:
            for listener in listeners:
                event.remove(*listener)


class Clock:
    """The time as leases and reconcile see it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        monkeypatch.setattr(leases, "now", self._now)
        for module in (leadership, merged, reconcile):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + self.ahead))

    def _now(self) -> datetime:
        return now() + timedelta(seconds=self.ahead)


class Replica(Engine):
    """A controller's connection to a replica; `held` is the replica's own: {adapter: folder}."""

    def __init__(self, url: str, held: dict[str, str]) -> None:
        super().__init__(url)
        self.held = held
        self.pass_by: Callable[[str, str], None] = lambda _step, _moment: None

    async def refuses(self) -> bool:
        return False

    async def _ask(
        self, method: str, path: str, body: dict[str, Any] | None, *_: Any, **__: Any
    ) -> tuple[int, dict[str, Any]]:
        self.pass_by(path, "before")
        await asyncio.sleep(0)
        answer = self._answer(path, body or {})
        self.pass_by(path, "after")
        return answer

    def _answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        name = body.get("lora_name", "")
        if path == "/v1/models":
            return 200, {"data": [{"id": one, "root": root, "parent": "base"} for one, root in self.held.items()]}
        if path == "/v1/load_lora_adapter":
            self.held[name] = body["lora_path"]
        elif path == "/v1/unload_lora_adapter":
            del self.held[name]
        elif path == "/tokenize":
            return 200, {"tokens": [1, 2, 3]}
        elif path != "/health":
            assert body["model"] in self.held, "an engine was asked for an adapter that it does not hold"
            return 200, {"choices": [{"prompt_logprobs": [None, {"2": {"logprob": -1.0}}, {"3": {"logprob": -1.0}}]}]}
        return 200, {}
