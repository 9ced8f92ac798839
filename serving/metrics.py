"""Figures about this process for Prometheus: requests by status, latency, time to first token, tokens, writer, engines.

One registry per appliance, so that several can live in one process (tests). vLLM's own figures are its own: serving
passes them on at /metrics/engines/NUMBER.
"""

from __future__ import annotations

from functools import lru_cache, partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serving.engine import Engine, EnginePool
from serving.limits import KeyLimits
from serving.turn import Turn
from serving.writer import RecordWriter

GROUP_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Holds the registry and what is counted by hand; the rest is read when somebody asks."""

    def __init__(self, writer: RecordWriter, limits: KeyLimits, engines: EnginePool) -> None:
        self.registry = CollectorRegistry()
        labels = ("alias", "route", "arm", "status")
        self._requests = Counter("flywheel_chats", "Chat requests that are over.", labels, registry=self.registry)
        self._latency = Histogram(
            "flywheel_chat_seconds",
            "From request to last byte.",
            ("alias", "arm"),
            registry=self.registry,
            buckets=SECONDS,
        )
        self._first = Histogram(
            "flywheel_first_token_seconds",
            "From request to first token, streamed answers only.",
            ("alias", "arm"),
            registry=self.registry,
            buckets=SECONDS,
        )
        tokens = Counter("flywheel_tokens", "Tokens as the engine counts them.", ("kind",), registry=self.registry)
        self._prompt_tokens, self._completion_tokens = tokens.labels("prompt"), tokens.labels("completion")
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
        self._of_turn = lru_cache(maxsize=1024)(self._labelled)

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

    def _labelled(self, alias: str, route: str, arm: str, outcome: str) -> tuple[Counter, Histogram, Histogram]:
        """The counters of one kind of chat, found once: looking them up costs more than counting."""
        return (
            self._requests.labels(alias, route, arm, outcome),
            self._latency.labels(alias, arm),
            self._first.labels(alias, arm),
        )

    def chat(self, turn: Turn, *, seconds: float) -> None:
        """One chat is over."""
        requests, latency, first = self._of_turn(
            turn.target.alias, turn.route or "plain", turn.target.arm or "", turn.outcome or "refused"
        )
        requests.inc()
        latency.observe(seconds)
        if turn.first_token_at is not None:
            first.observe((turn.first_token_at - turn.asked_at).total_seconds())

    def tokens(self, *, prompt_tokens: int | None, completion_tokens: int | None) -> None:
        """What one answer cost."""
        self._prompt_tokens.inc(prompt_tokens or 0)
        self._completion_tokens.inc(completion_tokens or 0)

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)
