"""Spans as a collector gets them: a real exporter, and a receiver that reads OTLP."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from flywheel.settings import load_settings
from serving.live import LiveAliases
from tests.conftest import serving_on, wait_until

pytestmark = pytest.mark.engine
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
WORDS = "the aubergine is in the lighthouse"
SERVER = 2


class Collector(HTTPServer):
    """Takes in what is exported. While `open` is not set it lets its clients wait, until they are about to give up."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.spans, self.services, self.waited = list[Any](), set[str](), list[bool]()
        self.open = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/v1/traces"


class Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.waited.append(not self.server.open.wait(4))
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.server.spans.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.server.services.add(attributes(resource.resource)["service.name"])
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def attributes(told: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in told.attributes}


def nanoseconds(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp() * 1e9)


def test_a_chat_is_a_span_with_the_conventions_names_and_without_words(
    engine_url: str, base_model: str, tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "OTEL_BSP_SCHEDULE_DELAY", "600000"
    )  # however slow this machine is, nothing leaves before the end
    body = {
        "model": "flywheel-plain",
        "messages": [{"role": "user", "content": WORDS}],
        "max_tokens": 4,
        "metadata": {"conversation_id": "c7"},
    }
    serving = {"port": 0, "reconcile_seconds": 0.3, "otlp_endpoint": collector.url}
    settings = load_settings(home=tmp_path, base_model=base_model, engine={"urls": [engine_url]}, serving=serving)
    with serving_on(settings) as found, httpx.Client(base_url=found.url, headers=found.authorized, timeout=60) as api:
        wait_until(lambda: api.get("/readyz").json()["parts"]["live_adapter"]["ready"], seconds=120)
        answer = api.post("/v1/chat/completions", json=body, headers={"traceparent": PARENT})
        refused = api.post("/v1/chat/completions", json=body | {"logit_bias": "nonsense"})
        target = found.app.appliance.live.target
        in_arm = {"arm": "challenger", "experiment_id": "exp-1"}
        monkeypatch.setattr(LiveAliases, "target", lambda _, name, **who: target(name, **who)._replace(**in_arm))
        api.post("/v1/chat/completions", json=body | {"stream": True})
        collector.open.set()
        done = answer.json()
        row = api.get(f"/v1/interactions/{done['id']}").json()
    assert collector.waited == [False]  # no answer waited for the collector; at its end serving sent what it had
    assert collector.services == {"flywheel"}
    whole, failed, streamed = collector.spans
    assert attributes(whole) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "flywheel-plain",
        "gen_ai.request.stream": False,
        "gen_ai.request.max_tokens": 4,
        "gen_ai.request.temperature": 0.2,
        "gen_ai.response.model": done["system_fingerprint"],
        "gen_ai.response.id": done["id"],
        "gen_ai.conversation.id": "c7",
        "gen_ai.usage.input_tokens": done["usage"]["prompt_tokens"],
        "gen_ai.usage.output_tokens": 4,
        "flywheel.route": "plain",
        "flywheel.request_id": answer.headers["x-request-id"],
    }
    assert (whole.name, whole.kind) == ("chat flywheel-plain", SERVER)
    assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == tuple(PARENT.split("-")[1:3])
    assert abs(whole.start_time_unix_nano - nanoseconds(row["asked_at"])) < 10_000
    assert whole.end_time_unix_nano >= nanoseconds(row["finished_at"]) - 10_000
    assert (refused.status_code, attributes(failed)["error.type"], failed.status.code) == (400, "failed", 2)
    told = attributes(streamed)
    assert (told["gen_ai.request.stream"], told["flywheel.arm"], told["flywheel.experiment"]) == (
        True,
        "challenger",
        "exp-1",
    )
    seconds = (streamed.end_time_unix_nano - streamed.start_time_unix_nano) / 1e9
    assert 0 < told["gen_ai.response.time_to_first_chunk"] <= seconds
    assert WORDS not in str(collector.spans)
