"""The champion merged into the base weights: how fast it is, and what users notice when it comes and goes.

speed   tokens per second of three engines in turns: the bare base model, the base with an adapter merged into it,
        and the same adapter as an adapter
moves   `flywheel up` under load: merged; the engine with adapters stops; an experiment brings it back; merged
        again; rolled back. Who failed, who got another adapter's words?

python -m benchmarks.merge [--only PART …] [--rounds N] [--at-once N …] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import orjson
import uvloop
from rich.progress import track

from benchmarks.box import PATIENCE_SECONDS, Home, Operator
from benchmarks.engines import GIVE_UP_SECONDS
from benchmarks.figures import Figure, measured, show
from benchmarks.gateway import ASIDE
from benchmarks.greedy_users import Crowd, Fingerprints, fingerprints
from benchmarks.load import Clients
from benchmarks.peers import Gateway
from benchmarks.processes import answers, free_port, plain_environment
from benchmarks.swap import say
from benchmarks.swap_figures import NONE, whose_words
from flywheel.demo.questions import questions
from flywheel.merges import merged_folder
from flywheel.parts import ENGINE_MODEL_NAME, engine_command, engine_environment, merged_engine_command
from flywheel.processes import Part, Running
from flywheel.settings import load_settings
from retrain.merge import merge_weights
from serving.engine import Engine

PARTS = ("speed", "moves")
TOKENS = 64
STREAMS = 48
"""In a round."""
STAND_BY_SECONDS = 30
Holds = Callable[[dict[str, Any]], bool]


@contextmanager
def engine(part: Part, logs: Path) -> Iterator[str]:
    """A vLLM that answers at the address it gives."""
    running = Running(part, logs=logs)
    try:
        while not running.healthy:
            if not running.alive or time.monotonic() - running.started > GIVE_UP_SECONDS:
                raise RuntimeError(running.last_words(20))
            time.sleep(0.2)
        yield str(part.address)
    finally:
        running.stop()


def speed(*, rounds: int, at_once: list[int]) -> list[Figure]:
    """Three engines in turns, with the same threads."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        home = Home(load_settings(home=folder))
        adapter, settings = home.made_adapter(seed=1), home.settings
        base = Path(settings.base_model_path)
        merged = merged_folder(settings, adapter)
        merge_weights(base, home.folder(adapter), merged, dtype="float32", threads=1)
        addresses = {name: f"http://127.0.0.1:{free_port()}" for name in ("base", "merged", "adapter")}
        whole = merged_engine_command(settings, cpu=True, url=addresses["merged"], adapter=adapter)
        bare = merged_engine_command(settings, cpu=True, url=addresses["base"], adapter=ENGINE_MODEL_NAME)
        bare[bare.index("--model") + 1] = str(base)
        with_adapter = engine_command(settings, cpu=True, url=addresses["adapter"], adapters=[home.folder(adapter)])
        commands = {"base": bare, "merged": whole, "adapter": with_adapter}
        models = {"base": ENGINE_MODEL_NAME, "merged": adapter, "adapter": adapter}
        environment = engine_environment(settings, cpu=True)
        clients = {}
        for name, command in commands.items():
            say(f"starting {name}")
            part = Part(name, command, addresses[name], "/health", environment=environment)
            url = stack.enter_context(engine(part, Path(folder) / "logs"))
            clients[name] = Clients(Gateway(name, f"{url}/v1", models[name], ""))
        figures: list[Figure] = []
        for streams in at_once:
            figures += asyncio.run(_in_turns(clients, rounds=rounds, at_once=streams))
        return figures


async def _in_turns(clients: dict[str, Clients], *, rounds: int, at_once: int) -> list[Figure]:
    exact: dict[str, Any] = {"max_tokens": TOKENS, "ignore_eos": True, "temperature": 0, "stream": True}
    for client in clients.values():
        await client.chats(at_once, at_once=at_once, **exact)
    rates: dict[str, list[float]] = {name: [] for name in clients}
    many = max(at_once, STREAMS if at_once > 1 else 6)
    order = list(clients)
    for _ in track(range(rounds), f"{at_once} streams at once", transient=True, console=ASIDE):
        order = [*order[1:], order[0]]  # nobody is always first
        for name in order:
            load = await clients[name].chats(many, at_once=at_once, **exact)
            rates[name].append(many * TOKENS / load.wall)
    for client in clients.values():
        client.close()
    kept = {
        name: median(mine / base for mine, base in zip(rates[name], rates["base"], strict=True))
        for name in ("merged", "adapter")
    }
    return [
        Figure(
            f"merged champion, {at_once} streams", median(rates["merged"]), "tok/s", "bare base",
            median(rates["base"]), kept["merged"], "ratio >= 0.98", kept["merged"] >= 0.98,
        ),
        Figure(
            f"champion as an adapter, {at_once} streams", median(rates["adapter"]), "tok/s", "bare base",
            median(rates["base"]), kept["adapter"],
        ),
    ]  # fmt: skip


class Moves:
    """`flywheel up` as a process, and its operator."""

    def __init__(self, home: Home, environment: dict[str, str]) -> None:
        self.home, self._environment = home, environment
        self.port = int(environment["FLYWHEEL_SERVING__PORT"])
        self.url = f"http://127.0.0.1:{self.port}"

    @contextmanager
    def up(self) -> Iterator[None]:
        log = (self.home.settings.home / "up.log").open("w")
        command = [sys.executable, "-c", "from flywheel.cli import app; app()", "up"]
        with log, subprocess.Popen(command, env=os.environ | self._environment, stdout=log, stderr=log) as process:
            try:
                yield
            finally:
                process.terminate()
                process.wait(60)

    async def until(self, http: aiohttp.ClientSession, what: str, holds: Holds) -> float:
        """Seconds until /v1/status says so. Raises TimeoutError."""
        begun = time.monotonic()
        async with asyncio.timeout(3 * PATIENCE_SECONDS):
            while True:
                async with http.get("/v1/status") as answer:
                    status = orjson.loads(await answer.read())
                if holds(status):
                    say(f"{what} after {time.monotonic() - begun:.1f} s")
                    return time.monotonic() - begun
                await asyncio.sleep(0.05)

    async def decide(self, http: aiohttp.ClientSession, act: str) -> None:
        body = {"act": act, "actor": "benchmark", "reason": "a benchmark of merges"}
        async with http.post("/v1/merges", json=body, raise_for_status=True):
            pass


def merged_answers(status: dict[str, Any]) -> bool:
    return any(one["merged"] and one["ready"] for one in status["engines"])


def alone(status: dict[str, Any]) -> bool:
    """Merged weights answer, and no engine with adapters."""
    return merged_answers(status) and not any(one["adapters"] for one in status["engines"] if not one["merged"])


def adapters_answer(status: dict[str, Any]) -> bool:
    return not merged_answers(status) and any(one["ready"] for one in status["engines"])


async def moves(*, at_once: int) -> list[Figure]:
    """Back and forth under load."""
    with tempfile.TemporaryDirectory() as folder:
        urls = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
        environment = plain_environment(Path(folder), port=free_port(), engine=urls[0]) | {
            "FLYWHEEL_ENGINE__MERGED_URLS": orjson.dumps(urls[1:]).decode(),
            "FLYWHEEL_ENGINE__STAND_BY_SECONDS": str(STAND_BY_SECONDS),
            "FLYWHEEL_DASHBOARD__PORT": str(free_port()),
        }
        del environment["FLYWHEEL_RAG__EMBEDDING_MODEL"]  # `flywheel up` waits until routed chats are answered, too
        home = Home(load_settings(home=folder, engine={"urls": urls[:1], "merged_urls": urls[1:]}))
        loras = [home.made_adapter(seed=seed) for seed in (1, 2)]
        known = await _known(home, {name: home.folder(name) for name in (home.identity, *loras)})
        box = Moves(home, environment)
        with box.up():
            async with aiohttp.ClientSession(box.url) as http:
                await answers(http, box.url, within_seconds=GIVE_UP_SECONDS)
                return await _moved(box, http, loras, known, at_once=at_once)


async def _moved(
    box: Moves, http: aiohttp.ClientSession, loras: list[str], known: Fingerprints, *, at_once: int
) -> list[Figure]:
    operator, (first, second) = Operator(http, box.home.settings.engine.urls), loras
    seconds: dict[str, float] = {}
    async with Crowd(box.url, list(known)).under_way(at_once=at_once) as crowd:
        await operator.promote(first, trial_seconds=1)
        await box.decide(http, "allow")
        seconds["merged weights answer after they were allowed"] = await box.until(http, "merged", merged_answers)
        seconds["the engine with adapters stops"] = await box.until(http, "alone", alone)
        await asyncio.sleep(3)
        experiment, opened_at, ready_at = await operator.open(second)
        await box.until(http, "adapters answer", adapters_answer)
        seconds["both arms ready after an experiment was opened"] = ready_at - opened_at
        await asyncio.sleep(3)
        await operator.reject(experiment)
        seconds["merged again after it was rejected"] = await box.until(http, "merged again", merged_answers)
        await asyncio.sleep(2)
        back = await operator.roll_back()
        seconds["rollback with the other engine on stand-by"] = back.over_at - back.begun_at
        await box.until(http, "adapters answer", adapters_answer)
        await asyncio.sleep(3)
    failed = [one for one in crowd.heard if one.failed]
    for one in failed[:5]:
        say(f"failed: {one.status} {one.trouble}")
    words = [whose_words(one, known) for one in crowd.heard if not one.failed]
    late = sum(one.asked_at > back.over_at and one.adapter != back.target for one in crowd.heard)
    return [
        measured("requests while it moved", len(crowd.heard), "requests"),
        measured("requests that failed", len(failed), "requests", target=NONE),
        measured("answers in another adapter's words", words.count("another"), "answers", target=NONE),
        measured("answers in words of no single adapter", words.count("mixed"), "answers", target=NONE),
        measured("answers by another adapter after the rollback", late, "answers", target=NONE),
        *(measured(name, value, "s") for name, value in seconds.items()),
    ]


async def _known(home: Home, folders: dict[str, Path]) -> Fingerprints:
    """What each adapter says. Serving unloads what it did not order, so this asks an engine of its own."""
    asked = list(dict.fromkeys(one.messages[-1]["content"] for one in questions("users")))[:40]
    url = f"http://127.0.0.1:{free_port()}"
    settings = load_settings(home=home.settings.home, engine={"urls": [url]})
    command, environment = engine_command(settings, cpu=True), engine_environment(settings, cpu=True)
    with engine(Part("fingerprints", command, url, "/health", environment=environment), home.settings.home / "logs"):
        asking = Engine(url)
        found = await fingerprints([asking], folders, asked)
        asking.close()
    say(f"{len(found)} of {len(asked)} questions tell {len(folders)} adapters apart")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="The champion merged into the base weights.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--at-once", nargs="+", type=int, default=[1, 8, 32], help="streams, in the part `speed`")
    parser.add_argument("--json", action="store_true", help="print the figures as a JSON list")
    arguments = parser.parse_args()
    figures: list[Figure] = []
    if "speed" in arguments.only:
        figures += speed(rounds=arguments.rounds, at_once=arguments.at_once)
    if "moves" in arguments.only:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            figures += runner.run(moves(at_once=8))
    show(figures, "The champion merged into the base weights", as_json=arguments.json)


if __name__ == "__main__":
    main()
