"""Serving in front of two real vLLM replicas, adapters with a green gate, and an operator who decides over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.engines import Replica
from benchmarks.made_lora import publish_lora
from benchmarks.processes import Server, answers, free_port, plain_environment
from flywheel.adapters import Adapter
from flywheel.database import migrate, now, open_database, writing
from flywheel.settings import Settings, load_settings
from serving.live import read_base_model
from serving.reconcile import publish_identity

REPLICAS = 2
PATIENCE_SECONDS = 90.0
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Act:
    """One promotion or rollback."""

    kind: str
    begun_at: float
    """time.monotonic() when it was sent."""
    over_at: float
    """When it was answered."""
    target: str
    opened_at: float = 0.0
    """A promotion's: when its experiment was opened."""
    ready_at: float = 0.0
    """When every engine was ready for the challenger."""


class Home:
    """A data directory with an identity adapter, to which others are added. It is there before serving is."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = open_database(settings.resolved_database_url, checkpoints=False)
        migrate(self.database)
        base_model = read_base_model(Path(settings.base_model_path))
        self.identity = publish_identity(self.database, settings, base_model)
        self._base_model_hash = base_model.hash

    def made_adapter(self, *, seed: int, **shape: Any) -> str:
        """A random adapter with files, a record and a green gate; returns the name."""
        name = publish_lora(self.settings, seed=seed, **shape)
        made = Adapter(
            name=name, content_hash=name, base_model_hash=self._base_model_hash, manifest={}, created_at=now()
        )
        made.gate = {"passed": True}
        with writing(self.database) as session:
            session.add(made)
        return name

    def folder(self, adapter: str) -> Path:
        return self.settings.adapters_folder / adapter


class Box(Home):
    """The replicas, the home, and serving, which may be stopped and started again."""

    def __init__(self, home: Path) -> None:
        urls = [f"http://127.0.0.1:{free_port()}" for _ in range(REPLICAS)]
        super().__init__(load_settings(home=home, engine={"urls": urls}))
        self.replicas = [
            Replica(load_settings(home=home, engine={"urls": [url]}), home / "logs" / str(number))
            for number, url in enumerate(urls)
        ]
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        environment = plain_environment(home, port=port, engine=urls[0])
        environment |= {"FLYWHEEL_ENGINE__URLS": orjson.dumps(urls).decode(), "FLYWHEEL_SERVING__FIRST_KEY": "false"}
        del environment["FLYWHEEL_SERVING__RECONCILE_SECONDS"]  # as users have it
        self.serving = Server(environment)

    async def start_serving(self) -> None:
        """Return once it answers."""
        self.serving.start()
        async with aiohttp.ClientSession() as http:
            await answers(http, self.url)


@contextmanager
def running_box(home: Path) -> Iterator[Box]:
    """A box whose replicas answer; serving is not started yet."""
    box = Box(home)
    started: list[Replica] = []
    try:
        for replica in box.replicas:
            replica.start()
            started.append(replica)
        for replica in started:
            replica.wait()
        yield box
    finally:
        box.serving.stop()
        for replica in started:
            replica.stop()
        box.database.dispose()


class Operator:
    """Opens experiments and decides about them, as a person does with `flywheel promote --override`."""

    def __init__(self, http: aiohttp.ClientSession, engines: list[str]) -> None:
        """`http` speaks to serving; `engines` are its replicas."""
        self._http, self._engines = http, engines
        self.acts: list[Act] = []
        self.stopped = 0
        """Experiments that serving ended by itself before the decision; another was opened then."""

    async def get(self, path: str) -> Any:
        async with self._http.get(path) as response:
            return orjson.loads(await response.read())

    async def open(self, challenger: str) -> tuple[str, float, float]:
        """The experiment's id, when it was opened, and when both engines were ready for both arms."""
        opened_at = time.monotonic()
        status, answer = await self._post("/v1/experiments", {"challenger": challenger, "actor": "benchmark"})
        if status != 200:
            raise RuntimeError(f"POST /v1/experiments: {status} {answer}")
        await self.until_loaded(challenger, self._engines)
        return str(answer["id"]), opened_at, time.monotonic()

    async def until_loaded(self, adapter: str, urls: list[str]) -> None:
        """Return once these engines are ready for it. Raises TimeoutError."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not set(urls) <= set((await self.get(f"/v1/adapters/{adapter}"))["loaded_on"]):  # noqa: ASYNC110
                await asyncio.sleep(POLL_SECONDS)

    async def promote(self, challenger: str, *, trial_seconds: float = 0.0) -> Act:
        """Open an experiment, leave it that long, and make its challenger live whatever its verdict."""
        experiment, opened_at, ready_at = await self.open(challenger)
        await asyncio.sleep(trial_seconds)
        for _ in range(20):
            seen = await self.get(f"/v1/experiments/{experiment}")
            if seen["state"] != "running":
                self.stopped += 1
                experiment, _, _ = await self.open(challenger)
                continue
            begun_at = time.monotonic()
            reason = "a benchmark of swaps, not of adapters"
            body = {"act": "promote", "actor": "benchmark", "override": True, "reason": reason}
            status, answer = await self._post("/v1/promotions", body | {"evidence_hash": seen["evidence_hash"]})
            if status == 200:
                act = Act("promote", begun_at, time.monotonic(), challenger, opened_at, ready_at)
                self.acts.append(act)
                return act
        raise RuntimeError(f"{challenger} is not promoted: {status} {answer}")

    async def roll_back(self) -> Act:
        """To whoever was live before."""
        begun_at = time.monotonic()
        body = {"act": "roll_back", "actor": "benchmark", "reason": "a benchmark of swaps"}
        status, answer = await self._post("/v1/promotions", body)
        if status != 200:
            raise RuntimeError(f"rollback: {status} {answer}")
        act = Act("roll_back", begun_at, time.monotonic(), answer["adapter"])
        self.acts.append(act)
        return act

    async def reject(self, experiment: str) -> None:
        """End it; nothing else changes."""
        body = {"act": "reject", "experiment_id": experiment, "actor": "benchmark", "reason": "it is over"}
        status, answer = await self._post("/v1/promotions", body)
        if status != 200:
            raise RuntimeError(f"reject: {status} {answer}")

    async def ready_for(self, url: str) -> int:
        """How many adapters the replica at `url` is marked ready for, by /metrics; 0: it is out of service."""
        async with self._http.get("/metrics") as response:
            text = (await response.read()).decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "flywheel_engine_adapters" and sample.labels["engine"] == url:
                    return int(sample.value)
        return 0

    async def _post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        async with self._http.post(path, json=body) as response:
            return response.status, orjson.loads(await response.read())
