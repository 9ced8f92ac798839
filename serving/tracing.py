"""One OpenTelemetry span for each chat, with the names of the GenAI conventions; off until an endpoint is set.

A span is made when the chat is over, from the times that its row has. It holds no words: names, counts and times.
The client's `traceparent` header becomes its parent.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from flywheel.database import now
from serving.turn import Turn

PARENT = b"traceparent"


class Tracing:
    """Sends the spans in a thread of its own; what cannot be delivered is dropped, and no answer waits for it."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._provider = TracerProvider(resource=Resource.create({SERVICE_NAME: "flywheel"}))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("flywheel.serving")
        self._parents = TraceContextTextMapPropagator()

    def chat(self, turn: Turn, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """One chat is over."""
        parent = next((value.decode("latin-1") for name, value in headers if name == PARENT), None)
        span = self._tracer.start_span(
            f"chat {turn.target.alias}",
            context=self._parents.extract({"traceparent": parent}) if parent else None,
            kind=SpanKind.SERVER,
            start_time=_nanoseconds(turn.asked_at),
            attributes={name: value for name, value in _attributes(turn).items() if value is not None},
        )
        if turn.outcome != "finished":
            span.set_attribute("error.type", turn.outcome or "refused")
            span.set_status(Status(StatusCode.ERROR))
        span.end(_nanoseconds(now()))

    def close(self) -> None:
        """Send what waits. Blocks."""
        self._provider.shutdown()


def open_tracing(endpoint: str) -> Tracing:
    """Spans to an OTLP collector over HTTP, such as http://127.0.0.1:4318/v1/traces."""
    return Tracing(OTLPSpanExporter(endpoint, timeout=5))


SAMPLING = ("temperature", "top_p", "max_tokens", "frequency_penalty", "presence_penalty", "seed")


def _attributes(turn: Turn) -> dict[str, str | int | float | None]:
    first = turn.first_token_at
    sampling = {f"gen_ai.request.{name}": turn.parameters.get(name) for name in SAMPLING}
    return sampling | {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": turn.target.alias,
        "gen_ai.request.stream": turn.streamed,
        "gen_ai.response.model": turn.target.adapter,
        "gen_ai.response.id": turn.completion_id,
        "gen_ai.response.time_to_first_chunk": (first - turn.asked_at).total_seconds() if first else None,
        "gen_ai.conversation.id": turn.conversation,
        "gen_ai.usage.input_tokens": turn.prompt_tokens,
        "gen_ai.usage.output_tokens": turn.completion_tokens,
        "flywheel.arm": turn.target.arm,
        "flywheel.experiment": turn.target.experiment_id,
        "flywheel.route": turn.route or "plain",
        "flywheel.prompt_version": turn.prompt_version,
        "flywheel.request_id": turn.request_id,
    }


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1e9)
