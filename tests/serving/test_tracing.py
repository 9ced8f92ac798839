"""Spans as a collector gets them: a real exporter, and a receiver that reads OTLP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from serving.tracing import open_tracing
from tests.conftest import Served, wait_until

pytestmark = pytest.mark.engine
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
WORDS = "the aubergine is in the lighthouse"


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Any]]]:
    spans: list[Any] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            import gzip

            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                spans.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/traces", spans
    server.shutdown()
    thread.join()
    server.server_close()


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def test_a_chat_is_a_span_with_the_conventions_names_and_without_words(
    served: Served, api: httpx.Client, collector: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint, spans = collector
    tracing = open_tracing(endpoint)
    monkeypatch.setattr(served.app.state.appliance, "tracing", tracing)
    body = {
        "model": "flywheel-plain",
        "messages": [{"role": "user", "content": WORDS}],
        "max_tokens": 4,
        "metadata": {"conversation_id": "c7"},
    }
    done = api.post("/v1/chat/completions", json=body, headers={"traceparent": PARENT}).json()
    refused = api.post("/v1/chat/completions", json=body | {"logit_bias": "nonsense"})
    api.post("/v1/chat/completions", json=body | {"stream": True})
    tracing.close()
    wait_until(lambda: len(spans) == 3)
    whole, failed, streamed = spans
    told = attributes(whole)
    assert (whole.name, told["gen_ai.operation.name"], told["gen_ai.response.id"]) == (
        "chat flywheel-plain",
        "chat",
        done["id"],
    )
    assert (told["gen_ai.response.model"], told["gen_ai.conversation.id"]) == (done["system_fingerprint"], "c7")
    assert told["gen_ai.usage.output_tokens"] == done["usage"]["completion_tokens"] == 4
    assert told["gen_ai.request.max_tokens"] == 4
    assert whole.trace_id.hex() in PARENT
    assert whole.parent_span_id.hex() in PARENT
    assert whole.end_time_unix_nano > whole.start_time_unix_nano
    assert "gen_ai.response.time_to_first_chunk" in attributes(streamed)
    assert (refused.status_code, attributes(failed)["error.type"], failed.status.code) == (400, "failed", 2)
    assert WORDS not in str(spans)
