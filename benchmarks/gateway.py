"""What the gateway costs: CPU per request and per streamed chunk, beside LiteLLM's proxy and TensorZero's gateway.

All stand in front of a mock engine and are asked in turns, round by round, by the same clients. CPU is what the
scheduler counts for all threads and children of a gateway; the machine's noise then concerns all of them alike. Ours
does all of its duties: an API key, an alias whose users an experiment divides, a durable row of each request (written
twice where it is streamed), metrics, a line of log. The variant "in memory" has its data directory on /dev/shm, where
nothing waits for a disk, and an engine of its own, since two appliances cannot share one; "unrecorded" has a writer
that writes nothing. LiteLLM checks its key and logs nothing; TensorZero has neither key nor log.

    python -m benchmarks.gateway [--rounds N] [--only PART …] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import httpx
import psutil
import uvloop
from rich.console import Console
from rich.progress import track

from benchmarks.figures import Figure, measured, show
from benchmarks.load import Clients
from benchmarks.made_lora import publish_lora
from benchmarks.peers import Gateway, litellm, tensorzero
from benchmarks.processes import (
    Server,
    cpu_seconds,
    free_port,
    mock_engine,
    plain_environment,
    serve,
    serve_unrecorded,
)
from flywheel.adapters import Adapter, identity_adapter
from flywheel.base_model import base_model_hash
from flywheel.database import migrate, now, open_database, reading, writing
from flywheel.experiment_plan import Plan
from flywheel.experiments import open_experiment
from flywheel.keys import create_key
from flywheel.settings import load_settings
from flywheel.variants import Variant

OURS, IN_MEMORY, UNRECORDED = "Flywheel", "Flywheel in memory", "Flywheel unrecorded"
LITELLM, TENSORZERO, ENGINE = "LiteLLM", "TensorZero", "mock engine"
PARTS = ("plain", "row", "latency", "stream", "width", "idle")
STREAM = "chunks=64 delay=0.004"
REQUESTS = {LITELLM: 100}
"""In a round; it is two orders slower than the others."""
IDLE = 1000
Serving = Callable[[dict[str, str]], None]
ASIDE = Console(stderr=True)
"""For progress: what is printed is the figures alone."""


@contextmanager
def flywheel(
    engine: str, home: Path, name: str = OURS, *, divided: bool = True, serving: Serving = serve
) -> Iterator[Gateway]:
    """Serving with a key; with an experiment on its aliases, too, whose challenger only the mock engine would take."""
    port = free_port()
    environment = plain_environment(home, port=port, engine=engine)
    environment |= {"FLYWHEEL_SERVING__REQUIRE_KEYS": "true", "FLYWHEEL_SERVING__FIRST_KEY": "false"}
    environment |= {"FLYWHEEL_SERVING__RECONCILE_SECONDS": "2"}
    database = open_database(f"sqlite:///{home / 'flywheel.db'}", checkpoints=False)
    migrate(database)
    with writing(database) as session:
        _, secret = create_key(session, tenant="default", name="load", scope="chat", actor="benchmark")
    database.dispose()
    server = Server(environment, serving)
    server.start()
    gateway = Gateway(name, f"http://127.0.0.1:{port}/v1", "flywheel-plain", secret, server.pid)
    try:
        asyncio.run(_ready(gateway, home, engine, divided=divided))
        yield gateway
    finally:
        server.stop()


async def _ready(gateway: Gateway, home: Path, engine: str, *, divided: bool) -> None:
    """Return once it answers; open an experiment then, and return once its users are divided."""
    for attempt in range(2 if divided else 1):
        for _ in range(600):
            headers = await asyncio.to_thread(_headers, gateway)
            if headers is not None and (attempt == 0 or "x-flywheel-arm" in headers):
                break
            await asyncio.sleep(0.1)
        else:
            raise RuntimeError(f"{gateway.name} did not get ready in a minute: see {home / 'serving.log'}")
        if divided and attempt == 0:
            await asyncio.to_thread(_challenge, home, engine)


def _headers(gateway: Gateway) -> dict[str, str] | None:
    body = {"model": gateway.model, "messages": [{"role": "user", "content": "hello"}], "user": "ann", "max_tokens": 1}
    try:
        answer = httpx.post(
            f"{gateway.url}/chat/completions", json=body, headers={"authorization": f"Bearer {gateway.key}"}
        )
    except httpx.TransportError:
        return None
    return dict(answer.headers) if answer.status_code == 200 else None


def _challenge(home: Path, engine: str) -> None:
    settings = load_settings(home=home, engine={"urls": [engine]})
    base = base_model_hash(settings.base_model_path)
    probes = [{"token_ids": [1, 2, 3], "log_probs": [-1.0, -1.0]}]  # what the mock engine says of everything
    name = publish_lora(settings, seed=1, probes=probes)
    database = open_database(settings.resolved_database_url, checkpoints=False)
    with reading(database) as session:
        champion = identity_adapter(session, base_model_hash=base)
        assert champion is not None
    manifest = {"probes": probes}
    with writing(database) as session:
        session.add(Adapter(name=name, content_hash=name, base_model_hash=base, manifest=manifest, created_at=now()))
        session.flush()
        open_experiment(
            session,
            tenant="default",
            alias=settings.serving.alias,
            champion=Variant(champion.name),
            challenger=Variant(name),
            plan=Plan(minimum_users=10**6),
            actor="benchmark",
        )
    database.dispose()


class Rounds:
    """The same work for each gateway, in turns."""

    def __init__(self, gateways: list[Gateway], *, rounds: int) -> None:
        self.clients = {gateway.name: Clients(gateway) for gateway in gateways}
        self.rounds = rounds

    def pid(self, name: str) -> int:
        pid = self.clients[name].gateway.pid
        assert pid is not None
        return pid

    async def warm(self) -> None:
        """The first requests of a process pay for what the others share."""
        for name, clients in self.clients.items():
            await clients.chats(REQUESTS.get(name, 300), at_once=16)
            await clients.chats(16, at_once=16, wish=STREAM, stream=True)

    async def cpu(
        self, names: list[str], requests: int, *, at_once: int, stream: bool = False
    ) -> dict[str, list[float]]:
        """{name: CPU microseconds for a request, or for a streamed chunk, in each round}."""
        found: dict[str, list[float]] = {name: [] for name in names}
        for _ in track(
            range(self.rounds), f"{'streamed' if stream else 'plain'}, {at_once} at once", transient=True, console=ASIDE
        ):
            for name in names:
                before = cpu_seconds(self.pid(name))
                many = min(requests, REQUESTS.get(name, requests)) if not stream else requests
                load = await self.clients[name].chats(
                    many, at_once=at_once, wish=STREAM if stream else "", stream=stream
                )
                spent = cpu_seconds(self.pid(name)) - before
                found[name].append(1e6 * spent / (load.chunks if stream else len(load.seconds)))
        return found

    async def p50(self, names: list[str], requests: int) -> dict[str, list[float]]:
        """{name: microseconds of the median request in each round}, one at a time."""
        found: dict[str, list[float]] = {name: [] for name in names}
        for _ in track(range(self.rounds), "latency, 1 at once", transient=True, console=ASIDE):
            for name in names:
                load = await self.clients[name].chats(min(requests, REQUESTS.get(name, requests)), at_once=1)
                found[name].append(1e6 * load.p50)
        return found

    def close(self) -> None:
        for clients in self.clients.values():
            clients.close()


def ratio(found: dict[str, list[float]], name: str, peer: str) -> float:
    """The median of the rounds' own ratios, since a round's two halves share the machine's mood."""
    return median(a / b for a, b in zip(found[name], found[peer], strict=True))


def against(figure: str, found: dict[str, list[float]], peer: str, target: tuple[str, float], unit: str) -> Figure:
    """Ours beside a peer's, judged by the ratio."""
    ours, theirs = median(found[OURS]), median(found[peer])
    by_rounds = ratio(found, OURS, peer)
    holds = by_rounds <= target[1] if target[0] == "<=" else by_rounds >= target[1]
    return Figure(figure, ours, unit, peer, theirs, by_rounds, f"ratio {target[0]} {target[1]:.3g}", holds)


async def measure(gateways: list[Gateway], *, rounds: int, parts: list[str]) -> list[Figure]:
    """Every figure of the parts asked for."""
    turns = Rounds(gateways, rounds=rounds)
    here = [name for name in (OURS, IN_MEMORY, TENSORZERO, LITELLM) if name in turns.clients]
    figures: list[Figure] = []
    await turns.warm()
    gc.disable()
    if "plain" in parts:
        for at_once in (16, 64):
            found = await turns.cpu(here, 2000, at_once=at_once)
            title = f"CPU of a plain request, {at_once} at once"
            figures.append(against(title, found, LITELLM, ("<=", 1 / 40), "µs"))
            figures.append(against(title, found, TENSORZERO, ("<=", 1.0), "µs"))
            if at_once == 64:
                figures.append(against(f"{title}, durable or not", found, IN_MEMORY, ("<=", 1 / 0.75), "µs"))
    if "row" in parts:
        found = await turns.cpu([OURS, UNRECORDED], 2000, at_once=16)
        rows = [ours - rest for ours, rest in zip(found[OURS], found[UNRECORDED], strict=True)]
        figures.append(measured("CPU of a request's row, 16 at once", median(rows), "µs", target=("<=", 50)))
    if "stream" in parts:
        found = await turns.cpu(here, 64, at_once=16, stream=True)
        figures.append(against("CPU of a streamed chunk, 16 at once", found, TENSORZERO, ("<=", 1.0), "µs"))
        figures.append(against("CPU of a streamed chunk, 16 at once", found, LITELLM, ("<=", 1 / 12), "µs"))
    if "latency" in parts:
        found = await turns.p50([*here, ENGINE], 400)
        added = {name: [a - b for a, b in zip(found[name], found[ENGINE], strict=True)] for name in here}
        figures.append(against("added to the median request, 1 at once", added, TENSORZERO, ("<=", 1.0), "µs"))
        figures.append(against("added to the median request, 1 at once", added, LITELLM, ("<=", 1.0), "µs"))
    if "width" in parts:
        few = await turns.cpu([OURS], 4000, at_once=16)
        many = await turns.cpu([OURS], 4000, at_once=256)
        found = {OURS: many[OURS], "at 16": few[OURS]}
        figures.append(against("CPU of a plain request, 256 at once", found, "at 16", ("<=", 1.3), "µs"))
    if "idle" in parts:
        figures.append(await idle_streams(turns))
    turns.close()
    return figures


async def idle_streams(turns: Rounds) -> Figure:
    """What a stream that waits for its next word costs in memory."""
    process = psutil.Process(turns.pid(OURS))
    clients = turns.clients[OURS]
    await clients.chats(IDLE, at_once=IDLE, wish="chunks=2 delay=1.5", stream=True)  # the heap has grown once
    before = process.memory_info().rss
    waiting = asyncio.create_task(clients.chats(IDLE, at_once=IDLE, wish="chunks=2 delay=8", stream=True))
    await asyncio.sleep(6)
    held = process.memory_info().rss - before
    await waiting
    return measured(f"memory of an idle stream, {IDLE} of them", held / IDLE / 1000, "kB", target=("<=", 60))


def main() -> None:
    parser = argparse.ArgumentParser(description="What the gateway costs, beside its peers.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", action="store_true", help="print the figures as a JSON list")
    arguments = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    with ExitStack() as running:
        engine = running.enter_context(mock_engine())
        scratch = Path(running.enter_context(tempfile.TemporaryDirectory()))
        memory = Path(running.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        for folder in ("home", "rest"):
            (scratch / folder).mkdir()
        gateways = [
            running.enter_context(flywheel(engine, scratch / "home")),
            running.enter_context(flywheel(running.enter_context(mock_engine()), memory, IN_MEMORY)),
            running.enter_context(
                flywheel(running.enter_context(mock_engine()), scratch / "rest", UNRECORDED, serving=serve_unrecorded)
            ),
            running.enter_context(tensorzero(engine, scratch)),
            running.enter_context(litellm(engine, scratch)),
            Gateway(ENGINE, f"{engine}/v1", "mock", "none"),
        ]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            figures = runner.run(measure(gateways, rounds=arguments.rounds, parts=arguments.only))
    show(figures, "The gateway, CPU by schedstat, rounds interleaved", as_json=arguments.json)


if __name__ == "__main__":
    main()
