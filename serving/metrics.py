"""Figures about this process for Prometheus: requests by status, latency, time to first token, tokens, writer queue.

One registry per appliance, so that several can live in one process (tests).
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serving.turn import Turn
from serving.writer import RecordWriter

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Holds the registry and what is counted by hand; the rest is read when somebody asks."""

    def __init__(self, writer: RecordWriter) -> None:
        self.registry = CollectorRegistry()
        labels = ("alias", "route", "arm", "status")
        self._requests = Counter("flywheel_chats", "Chat requests that are over.", labels, registry=self.registry)
        self._latency = Histogram(
            "flywheel_chat_seconds", "From request to last byte.", ("alias",), registry=self.registry, buckets=SECONDS
        )
        self._first = Histogram(
            "flywheel_first_token_seconds",
            "From request to first token, streamed answers only.",
            ("alias",),
            registry=self.registry,
            buckets=SECONDS,
        )
        self._tokens = Counter(
            "flywheel_tokens", "Tokens as the engine counts them.", ("kind",), registry=self.registry
        )
        self._gauge("flywheel_writer_waiting", "Submissions that wait for the disk.").set_function(
            lambda: writer.waiting
        )
        self._gauge("flywheel_writer_groups", "Commits so far.").set_function(lambda: writer.groups)
        self._gauge("flywheel_writer_rows", "Rows written so far.").set_function(lambda: writer.rows)

    def _gauge(self, name: str, words: str) -> Gauge:
        return Gauge(name, words, registry=self.registry)

    def chat(self, turn: Turn, *, seconds: float) -> None:
        """One chat is over."""
        alias = turn.target.alias
        self._requests.labels(alias, turn.route or "plain", turn.target.arm or "", turn.outcome or "refused").inc()
        self._latency.labels(alias).observe(seconds)
        if turn.first_token_at is not None:
            self._first.labels(alias).observe((turn.first_token_at - turn.asked_at).total_seconds())

    def tokens(self, *, prompt_tokens: int | None, completion_tokens: int | None) -> None:
        """What one answer cost."""
        self._tokens.labels("prompt").inc(prompt_tokens or 0)
        self._tokens.labels("completion").inc(completion_tokens or 0)

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)
