"""Figures about this process for Prometheus: requests by status, latency, time to first token, tokens, writer, engines.

One registry per appliance, so that several can live in one process (tests). vLLM's own figures are its own: serving
passes them on at /metrics/engines/NUMBER.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import partial
from itertools import accumulate

from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.engine import Engine, EnginePool
from serving.limits import KeyLimits
from serving.turn import Turn
from serving.writer import RecordWriter

GROUP_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Times:
    """How many took how long, in buckets."""

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.total += seconds


class ChatFigures(Collector):
    """What is counted of each chat, as plain numbers of the event loop: the library's counters lock for each step."""

    def __init__(self) -> None:
        self._over: Counter[tuple[str, str, str, str]] = Counter()
        self._seconds: defaultdict[tuple[str, str], Times] = defaultdict(Times)
        self._first: defaultdict[tuple[str, str], Times] = defaultdict(Times)
        self._prompt_tokens = self._completion_tokens = 0

    def add(self, turn: Turn, *, seconds: float) -> None:
        """One chat is over."""
        alias, arm = turn.target.alias, turn.target.arm or ""
        self._over[alias, turn.route or "plain", arm, turn.outcome or "refused"] += 1
        self._seconds[alias, arm].add(seconds)
        if turn.first_token_at is not None:
            self._first[alias, arm].add((turn.first_token_at - turn.asked_at).total_seconds())
        self._prompt_tokens += turn.prompt_tokens or 0
        self._completion_tokens += turn.completion_tokens or 0

    def collect(self) -> Iterator[Metric]:
        """All of it, as Prometheus knows it."""
        over = CounterMetricFamily(
            "flywheel_chats", "Chat requests that are over.", labels=("alias", "route", "arm", "status")
        )
        for names, count in self._over.items():
            over.add_metric(names, count)
        tokens = CounterMetricFamily("flywheel_tokens", "Tokens as the engine counts them.", labels=("kind",))
        tokens.add_metric(("prompt",), self._prompt_tokens)
        tokens.add_metric(("completion",), self._completion_tokens)
        yield from (over, tokens)
        yield _histogram("flywheel_chat_seconds", "From request to last byte.", self._seconds)
        words = "From request to first token, streamed answers only."
        yield _histogram("flywheel_first_token_seconds", words, self._first)


def _histogram(name: str, words: str, found: dict[tuple[str, str], Times]) -> Metric:
    family = HistogramMetricFamily(name, words, labels=("alias", "arm"))
    for names, times in found.items():
        edges = [*(str(float(edge)) for edge in SECONDS), "+Inf"]
        family.add_metric(names, list(zip(edges, accumulate(times.counts), strict=True)), times.total)
    return family


class Metrics:
    """Holds the registry; what is not counted here is read when somebody asks."""

    def __init__(self, writer: RecordWriter, limits: KeyLimits, engines: EnginePool) -> None:
        self.registry = CollectorRegistry()
        self._chats = ChatFigures()
        self.registry.register(self._chats)
        self.chat = self._chats.add
        refused = Gauge(
            "flywheel_limit_refusals", "Requests answered with 429, by limit.", ("limit",), registry=self.registry
        )
        for kind in ("requests", "tokens", "at_once"):
            refused.labels(kind).set_function(partial(limits.refused.__getitem__, kind))
        waiting = Gauge("flywheel_writer_waiting", "Submissions that wait for the disk.", registry=self.registry)
        waiting.set_function(lambda: writer.waiting)
        groups = Histogram(
            "flywheel_writer_group_rows", "Rows in a commit.", registry=self.registry, buckets=GROUP_ROWS
        )
        writer.on_commit = groups.observe
        self._show_engines(engines)

    def _show_engines(self, engines: EnginePool) -> None:
        def adapters(engine: Engine) -> int:
            return len(engines.ready_for(engine))

        def under_way(engine: Engine) -> int:
            return engine.in_flight

        for name, words, read in (
            ("flywheel_engine_adapters", "Adapters that a replica is ready for; 0: it is not in service.", adapters),
            ("flywheel_engine_requests", "Requests that a replica is answering.", under_way),
        ):
            gauge = Gauge(name, words, ("engine",), registry=self.registry)
            for engine in engines.all:
                gauge.labels(engine.url).set_function(partial(read, engine))

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)
