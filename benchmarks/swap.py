"""Adapters swapped, rolled back and killed under load: serving in front of two real vLLM replicas, asked over HTTP.

    swaps      each promotes a challenger that both engines load first, and rolls it back; whose words are heard?
    killed     SIGKILL to one engine: what users see, how soon it is out of service, how soon it serves again
    unchanged  the identity adapter asked by name, before any other adapter was loaded and while both arms are asked
    memory     a swap to a fresh adapter each time: what the engines hold afterwards

The adapters are random numbers with a green gate, and every promotion overrides its verdict: this is about swaps alone.
Engines and clients share the machine's cores; what is compared was measured in one run, interleaved.

    python -m benchmarks.swap [--only PART …] [--swaps N] [--requests N] [--at-once N] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import chain, cycle, pairwise
from pathlib import Path
from random import Random

import aiohttp
import uvloop

from benchmarks.box import POLL_SECONDS, Box, Operator, running_box
from benchmarks.figures import Figure, measured, show
from benchmarks.greedy_users import Crowd, Fingerprints, fingerprints, greedy
from benchmarks.swap_figures import NONE, Span, answer_figures, decision_figures, first_word_figures
from flywheel.demo.questions import questions
from flywheel.errors import UnavailableError
from serving.engine import Engine

PARTS = ("unchanged", "swaps", "memory", "killed")
"""In this order: the first needs engines that have not loaded anything."""
CHALLENGERS = 4
FRESH = 20
"""Swaps of the part `memory`."""
BETWEEN = 60
"""Requests before each of them, and after."""
PROMPTS = 1000
PROMPT_TOKENS = 16
EVERYTHING = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def say(words: str) -> None:
    """Progress: what is printed is the figures alone."""
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


class Stage:
    """The box, the adapters that take turns, and what each of them says."""

    def __init__(self, box: Box, *, at_once: int) -> None:
        self.box, self.at_once = box, at_once
        self.engines = [Engine(url) for url in box.settings.engine.urls]
        self.adapters: list[str] = []
        self._known: Fingerprints = {}

    async def known(self) -> Fingerprints:
        """The adapters' fingerprints. Taken once, while serving is away: it would unload what it did not order."""
        if not self._known:
            self.box.serving.stop()
            self.adapters = [self.box.made_adapter(seed=seed) for seed in range(1, CHALLENGERS + 1)]
            folders = {name: self.box.folder(name) for name in [self.box.identity, *self.adapters]}
            asked = list(dict.fromkeys(one.messages[-1]["content"] for one in questions("users")))
            Random(1).shuffle(asked)
            self._known = await fingerprints(self.engines, folders, asked[:40])
            say(f"{len(self._known)} of 40 questions tell {len(folders)} adapters apart")
            await self.box.start_serving()
        return self._known

    @asynccontextmanager
    async def crowd(self) -> AsyncIterator[Crowd]:
        """Users under way, for the length of the block."""
        async with Crowd(self.box.url, list(await self.known())).under_way(at_once=self.at_once) as crowd:
            yield crowd


async def swaps(stage: Stage, operator: Operator, *, many: int, requests: int) -> list[Figure]:
    """Promotions and rollbacks in turns, spread over the requests."""
    known, raw, spans = await stage.known(), list[float](), list[Span]()
    challengers, engines = cycle(stage.adapters), cycle(stage.engines)
    spare = stage.box.made_adapter(seed=1000)
    async with stage.crowd() as crowd:
        await asyncio.sleep(2)
        for number in range(many):
            await operator.promote(next(challengers), trial_seconds=0.5)
            await asyncio.sleep(1.5)
            begun_at = time.monotonic()
            seconds = await raw_swap(stage, next(engines), spare)
            spans.append((begun_at, time.monotonic()))
            if seconds is not None:
                raw.append(seconds)
            await asyncio.sleep(1.5)
            await operator.roll_back()
            await crowd.until(round(requests * (number + 1) / many))
            if (number + 1) % 10 == 0 or number + 1 == many:
                say(f"{number + 1} swaps and rollbacks, {len(crowd.heard)} requests")
        await asyncio.sleep(1.5)
    for trouble, times in Counter(one.trouble for one in crowd.heard if one.failed).most_common(5):
        say(f"failed {times} times: {trouble}")
    return [
        *answer_figures(crowd.heard, operator.acts, known, stage.box.database),
        *decision_figures(crowd.heard, operator.acts, raw),
        *first_word_figures(crowd.heard, operator.acts, spans),
    ]


async def raw_swap(stage: Stage, engine: Engine, adapter: str) -> float | None:
    """Seconds to load an adapter on an engine and to get one token from it, past serving; None when serving, which did
    not order it, took it away in between."""
    begun = time.monotonic()
    try:
        await engine.load(adapter, stage.box.folder(adapter))
        await engine.complete(greedy(adapter, "Hello", tokens=1))
        seconds = time.monotonic() - begun
        await engine.unload(adapter)
    except UnavailableError as error:
        say(f"no raw figure this time: {error}")
        return None
    return seconds


async def killed(stage: Stage, operator: Operator) -> list[Figure]:
    """One engine dies under load and is started again; here by us, with the command that started it first."""
    replica = stage.box.replicas[0]
    async with stage.crowd() as crowd:
        champion = (await operator.promote(stage.adapters[0])).target
        await asyncio.sleep(3)
        before = await operator.ready_for(replica.url)
        replica.kill()
        dead_at = time.monotonic()
        noticed = await seconds_until(lambda ready: ready < before, operator, replica.url)
        out = noticed + await seconds_until(lambda ready: ready == 0, operator, replica.url)
        parts = (await operator.get("/readyz"))["parts"]
        say(f"{parts['engine']['detail']}; live adapter: {parts['live_adapter']['detail']}")
        replica.start()
        started = await asyncio.to_thread(replica.wait)
        healthy_at = time.monotonic()
        await operator.until_loaded(champion, [replica.url])
        back = time.monotonic() - healthy_at
        await asyncio.sleep(3)
    after = [one for one in crowd.heard if one.over_at >= dead_at]
    statuses, failed = Counter(one.status for one in after), [one for one in after if one.failed]
    say(f"statuses after the kill: {dict(statuses)}; failed {len(failed)}: {[one.trouble for one in failed[:3]]}")
    later = [one for one in failed if one.asked_at > dead_at]
    second = ("<=", 1.0)
    return [
        measured("requests while one of two engines was dead or starting", len(after), "requests"),
        measured("answers 404", statuses[404], "answers", target=NONE),
        measured("answers that broke off as the engine died", len(failed) - len(later), "answers"),
        measured("answers that failed, asked after it died", len(later), "answers"),
        measured("dead engine detected: the first adapter is asked elsewhere", noticed, "s", target=second),
        measured("dead engine detected: out of service for every adapter", out, "s", target=second),
        measured("engine start-up", started, "s"),
        measured("champion back after the engine's start-up", back, "s", target=("<=", 5)),
    ]


async def seconds_until(holds: Callable[[int], bool], operator: Operator, url: str) -> float:
    """Until /metrics says of the engine at `url` that it is ready for such a number of adapters."""
    begun = time.monotonic()
    while not holds(await operator.ready_for(url)):  # noqa: ASYNC110
        await asyncio.sleep(POLL_SECONDS)
    return time.monotonic() - begun


async def unchanged(stage: Stage, operator: Operator) -> list[Figure]:
    """Prompts to the identity adapter: alone; beside users of the same adapter, as a control; beside both arms."""
    prompts = [one.messages[-1]["content"] for split in ("users", "heldout", "gate") for one in questions(split)]
    prompts = list(dict.fromkeys(prompts))[:PROMPTS]
    say(f"{len(prompts)} prompts before any other adapter is loaded")
    alone = await tokens_of(stage, prompts)
    say("the same again, beside users of the same adapter")
    async with Crowd(stage.box.url, prompts[:50]).under_way(at_once=stage.at_once):
        control = await tokens_of(stage, prompts)
    async with stage.crowd() as crowd:
        experiment, _, _ = await operator.open(stage.adapters[0])
        say("the same again, beside both arms of an experiment")
        begun_at = time.monotonic()
        beside = await tokens_of(stage, prompts)
        over_at = time.monotonic()
        await operator.reject(experiment)
    arms = Counter(one.arm for one in crowd.heard if begun_at < one.asked_at and one.over_at < over_at)
    return [
        measured("prompts to the identity adapter", len(prompts), "prompts"),
        measured("answers by the champion's arm meanwhile", arms["champion"], "answers"),
        measured("answers by the challenger's arm meanwhile", arms["challenger"], "answers"),
        measured("answers changed in the control, without arms", _differ(alone, control), "answers"),
        measured("answers changed while both arms ran", _differ(alone, beside), "answers", target=NONE),
    ]


async def tokens_of(stage: Stage, prompts: list[str]) -> list[list[int]]:
    """The identity adapter's greedy tokens, through serving, several prompts at a time. Raises on a refusal."""
    limit = asyncio.Semaphore(stage.at_once)

    async def ask(http: aiohttp.ClientSession, prompt: str) -> list[int]:
        body = greedy(stage.box.identity, prompt, tokens=PROMPT_TOKENS) | {"return_token_ids": True}
        async with limit, http.post("/v1/chat/completions", json=body, raise_for_status=True) as response:
            return list((await response.json())["choices"][0]["token_ids"])

    async with aiohttp.ClientSession(stage.box.url) as http:
        return await asyncio.gather(*(ask(http, prompt) for prompt in prompts))


def _differ(one: list[list[int]], other: list[list[int]]) -> int:
    return sum(mine != theirs for mine, theirs in zip(one, other, strict=True))


async def memory(stage: Stage, operator: Operator) -> list[Figure]:
    """Swaps to fresh adapters under load, each after requests without one: engines also grow with what they are asked,
    so what as many requests took without a swap is subtracted. They fill their cache of `max_cpu_loras` first; flat is
    what follows."""
    box, settings = stage.box, stage.box.settings.engine
    names = [box.made_adapter(seed=2000 + n, rank=settings.max_lora_rank, targets=EVERYTHING) for n in range(FRESH)]
    size = sum(file.stat().st_size for file in box.folder(names[0]).iterdir()) / 2**20
    held: list[list[float]] = []
    """MiB of each engine, and the requests so far: at first, then without a swap, with one, without one, …"""
    async with stage.crowd() as crowd:
        for step, name in enumerate([None, *chain.from_iterable((None, name) for name in names)]):
            if name:
                await operator.promote(name)
            await crowd.until(len(crowd.heard) + BETWEEN)
            held.append([*(replica.memory() / 2**20 for replica in box.replicas), len(crowd.heard)])
            weights = [round(one, 1) for one in held[-1][:-1]]
            say(f"{step // 2} fresh adapters, {len(crowd.heard)} requests: {weights} MiB")
    steps = [[after - before for before, after in pairwise(column)] for column in zip(*held, strict=True)]
    still, swapped = ([sum(column[first:][2 * settings.max_cpu_loras :: 2]) for column in steps] for first in (0, 1))
    share = swapped.pop() / still.pop()
    return [
        measured("one adapter's files", size, "MiB"),
        measured("an engine's memory", max(held[-1][:-1]), "MiB"),
        measured("grown in all, adapters and requests", max(sum(engine) for engine in steps[:-1]), "MiB"),
        measured(
            f"grown by {FRESH - settings.max_cpu_loras} swaps after its cache is full, beyond what requests take",
            max(one - share * other for one, other in zip(swapped, still, strict=True)),
            "MiB",
            target=("<=", round(size, 2)),
        ),
    ]


async def measure(box: Box, *, parts: list[str], many: int, requests: int, at_once: int) -> list[Figure]:
    """Every figure of the parts asked for."""
    stage, figures = Stage(box, at_once=at_once), list[Figure]()
    await box.start_serving()
    async with aiohttp.ClientSession(box.url) as http:
        for part in (part for part in PARTS if part in parts):
            say(part)
            operator = Operator(http, box.settings.engine.urls)
            if part == "swaps":
                found = await swaps(stage, operator, many=many, requests=requests)
            else:
                found = await {"killed": killed, "unchanged": unchanged, "memory": memory}[part](stage, operator)
            for one in found:
                say(f"{one.figure}: {one.value:.4g} {one.unit}" + (f", not {one.target}" if one.holds is False else ""))
            figures += found
    for engine in stage.engines:
        engine.close()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="Adapters swapped, rolled back and killed under load.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--requests", type=int, default=20_000, help="at least, in the part `swaps`")
    parser.add_argument("--at-once", type=int, default=12, help="users who ask at the same time")
    parser.add_argument("--json", action="store_true", help="print the figures as a JSON list")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        say("starting two engines")
        with running_box(Path(home)) as box, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            whole = measure(
                box,
                parts=arguments.only,
                many=arguments.swaps,
                requests=arguments.requests,
                at_once=arguments.at_once,
            )
            figures = runner.run(whole)
    show(figures, f"Swaps before two vLLM replicas, {arguments.at_once} users at once", as_json=arguments.json)


if __name__ == "__main__":
    main()
