"""What the gateway takes from a real vLLM: CPU beside the engine's, and output tokens per second through it and past.

Streams of a fixed length, the same adapter (the identity) both ways, round by round in turns. On a CPU the engine takes
all there is, so whatever the gateway uses is missing there: the honest case. What a token costs the engine depends on
the base model, and what it costs the gateway does not: so there are two, the starter's 1.6 million parameters and half
a billion with random weights.

    python -m benchmarks.before_vllm [--base-model half-billion] [--rounds N] [--at-once N] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import uvloop
from rich.progress import track

from benchmarks.engines import Replica
from benchmarks.figures import Figure, measured, show
from benchmarks.gateway import ASIDE, flywheel
from benchmarks.load import Clients
from benchmarks.peers import Gateway
from benchmarks.processes import cpu_seconds, free_port
from flywheel.adapters import identity_adapter
from flywheel.base_model import base_model_hash, module_shapes
from flywheel.database import open_database, reading
from flywheel.settings import load_settings

TOKENS = 64
STREAMS = {"starter": 48, "half-billion": 8}
"""In a round."""


def identity_name(home: Path, engine: str) -> str:
    """What serving has the engine hold for "no adapter"."""
    settings = load_settings(home=home, engine={"urls": [engine]})
    database = open_database(settings.resolved_database_url, checkpoints=False)
    with reading(database) as session:
        found = identity_adapter(session, base_model_hash=base_model_hash(settings.base_model_path))
    database.dispose()
    assert found is not None
    return found.name


async def measure(ours: Gateway, engine: Gateway, *, rounds: int, at_once: int, streams: int) -> list[Figure]:
    """Tokens per second both ways, and the gateway's share of CPU."""
    through, past = Clients(ours), Clients(engine)
    assert ours.pid is not None
    assert engine.pid is not None
    exact: dict[str, Any] = {"max_tokens": TOKENS, "ignore_eos": True}
    for clients in (through, past):
        await clients.chats(at_once, at_once=at_once, stream=True, **exact)
    kept, shares, rates = [], [], []
    for _ in track(range(rounds), f"{at_once} streams at once", transient=True, console=ASIDE):
        before = cpu_seconds(ours.pid), cpu_seconds(engine.pid)
        one = await through.chats(streams, at_once=at_once, stream=True, **exact)
        spent = cpu_seconds(ours.pid) - before[0], cpu_seconds(engine.pid) - before[1]
        other = await past.chats(streams, at_once=at_once, stream=True, **exact)
        shares.append(100 * spent[0] / spent[1])
        rates.append(streams * TOKENS / one.wall)
        kept.append(other.wall / one.wall)
    through.close()
    past.close()
    direct = median(rate / ratio for rate, ratio in zip(rates, kept, strict=True))
    keeps = median(kept)
    return [
        measured("gateway's CPU beside vLLM's", median(shares), "%", target=("<=", 3)),
        Figure(
            "output tokens per second",
            median(rates),
            "tok/s",
            "vLLM alone",
            direct,
            keeps,
            "ratio >= 0.9",
            keeps >= 0.9,
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="What the gateway takes from a real vLLM.")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--base-model", choices=list(STREAMS), default="starter")
    parser.add_argument("--json", action="store_true", help="print the figures as a JSON list")
    arguments = parser.parse_args()
    with ExitStack() as running:
        scratch = Path(running.enter_context(tempfile.TemporaryDirectory()))
        (scratch / "home").mkdir()
        if arguments.base_model != "starter":
            from benchmarks.made_base import HALF_A_BILLION, make_base_model  # noqa: PLC0415  torch, for this one alone

            make_base_model(scratch / "base", HALF_A_BILLION)
            os.environ["FLYWHEEL_BASE_MODEL"] = str(scratch / "base")
            os.environ["FLYWHEEL_ENGINE__DTYPE"] = "float32"  # as the starter's; most CPUs only imitate bfloat16
        url = f"http://127.0.0.1:{free_port()}"
        engine = Replica(load_settings(home=scratch, engine={"urls": [url]}), scratch)
        engine.start()
        running.callback(engine.stop)
        ASIDE.print("starting vLLM")
        engine.wait()
        ours = running.enter_context(flywheel(url, scratch / "home", divided=False))
        name = identity_name(scratch / "home", url)
        past = Gateway("vLLM", f"{url}/v1", name, "none", engine.pid)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            figures = runner.run(
                measure(
                    ours,
                    past,
                    rounds=arguments.rounds,
                    at_once=arguments.at_once,
                    streams=STREAMS[arguments.base_model],
                )
            )
        shapes = module_shapes(load_settings(home=scratch).base_model_path)
    size = sum(outputs * inputs for outputs, inputs in shapes.values()) / 1e6
    title = f"Before a real vLLM of {size:,.1f} million weights, {arguments.at_once} streams of {TOKENS} tokens"
    show(figures, title, as_json=arguments.json)


if __name__ == "__main__":
    main()
