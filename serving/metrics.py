"""Figures about this process for Prometheus: requests by status, latency, time to first token, tokens, writer queue.

One registry per appliance, so that several can live in one process (tests).
"""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serving.limits import KeyLimits
from serving.turn import Turn
from serving.writer import RecordWriter

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Holds the registry and what is counted by hand; the rest is read when somebody asks."""

    def __init__(self, writer: RecordWriter, limits: KeyLimits) -> None:
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
        self._tokens = Counter(
            "flywheel_tokens", "Tokens as the engine counts them.", ("kind",), registry=self.registry
        )
        self._refused = Gauge(
            "flywheel_limit_refusals", "Requests answered with 429, by limit.", ("limit",), registry=self.registry
        )
        self._gauge("flywheel_writer_waiting", "Submissions that wait for the disk.").set_function(
            lambda: writer.waiting
        )
        for kind in ("requests", "tokens", "at_once"):
            self._refused.labels(kind).set_function(partial(limits.refused.__getitem__, kind))
        self._gauge("flywheel_writer_groups", "Commits so far.").set_function(lambda: writer.groups)
        self._gauge("flywheel_writer_rows", "Rows written so far.").set_function(lambda: writer.rows)

    def _gauge(self, name: str, words: str) -> Gauge:
        return Gauge(name, words, registry=self.registry)

    def chat(self, turn: Turn, *, seconds: float) -> None:
        """One chat is over."""
        alias, arm = turn.target.alias, turn.target.arm or ""
        self._requests.labels(alias, turn.route or "plain", arm, turn.outcome or "refused").inc()
        self._latency.labels(alias, arm).observe(seconds)
        if turn.first_token_at is not None:
            self._first.labels(alias, arm).observe((turn.first_token_at - turn.asked_at).total_seconds())

    def tokens(self, *, prompt_tokens: int | None, completion_tokens: int | None) -> None:
        """What one answer cost."""
        self._tokens.labels("prompt").inc(prompt_tokens or 0)
        self._tokens.labels("completion").inc(completion_tokens or 0)

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)
