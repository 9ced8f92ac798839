"""Routed chats: what is retrieved and asked, and what the record says about it."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import pytest
from sqlmodel import Session

from flywheel.interactions import Interaction
from tests.conftest import Served, wait_until

pytestmark = pytest.mark.engine
TEXT = """# Heron ferry
## Price
The Heron ferry costs 14 € for adults. Children pay 6 €.

## Opening hours
The ticket office of the Heron ferry is open from 8:30 to 17:00.
"""


@pytest.fixture(scope="module", autouse=True)
def documents(served: Served) -> None:
    import httpx

    answer = httpx.post(
        f"{served.url}/v1/documents",
        json={"title": "Heron ferry", "text": TEXT, "actor": "olga"},
        headers=served.authorized,
    )
    assert answer.json() == {"document": "Heron ferry", "sections": 2, "chunks": 2}


def ask(client: Any, served: Served, question: str, **more: Any) -> tuple[Any, Any]:
    raw = client.chat.completions.with_raw_response.create(
        model="flywheel", messages=[{"role": "user", "content": question}], max_tokens=12, **more
    )
    answer = raw.parse()
    with Session(served.database) as session:
        return raw, session.get_one(Interaction, answer.id)


def test_question_is_asked_with_the_nearest_passages_and_all_of_it_is_recorded(client: Any, served: Served) -> None:
    raw, row = ask(client, served, "How much does the Heron ferry cost?", user="ann")
    assert raw.headers["x-flywheel-route"] == row.route == row.intent == "knowledge"
    assert [(found.number, found.section) for found in row.passages] == [(1, "Price"), (2, "Opening hours")]
    assert row.prompt[0]["content"].splitlines()[1] == (
        "[1] Heron ferry – Price: The Heron ferry costs 14 € for adults. Children pay 6 €."
    )
    assert row.messages == [{"role": "user", "content": "How much does the Heron ferry cost?"}]
    assert row.index_version == served.app.appliance.library.index_version
    assert row.router_version
    assert row.prompt_version
    assert raw.parse().model_extra["passages"][0]["document"] == "Heron ferry"


@pytest.mark.parametrize(
    ("question", "route"),
    [
        ("Hello, how are you?", "small_talk"),
        ("Thanks a lot, bye!", "small_talk"),
        ("Write me a poem about autumn leaves", "refuse"),
        ("Until when is the ticket office open?", "knowledge"),
        ("Does the ferry carry bicycles?", "knowledge"),
    ],
)
def test_question_takes_the_route_of_its_intent(client: Any, served: Served, question: str, route: str) -> None:
    raw, row = ask(client, served, question)
    assert raw.headers["x-flywheel-route"] == row.route == route
    assert bool(row.passages) == (route == "knowledge")


def test_short_follow_up_is_searched_for_with_the_question_before_it(client: Any, served: Served) -> None:
    turns = [
        {"role": "user", "content": "How much is the Heron ferry for adults?"},
        {"role": "assistant", "content": "14 € [1]"},
        {"role": "user", "content": "And for children?"},
    ]
    answer = client.chat.completions.create(model="flywheel", messages=turns, max_tokens=4)
    with Session(served.database) as session:
        row: Any = session.get_one(Interaction, answer.id)
    assert (row.route, row.passages[0].section) == ("knowledge", "Price")
    assert row.prompt[1:] == turns


def test_thanks_after_a_question_are_small_talk(client: Any, served: Served) -> None:
    turns = [
        {"role": "user", "content": "How much is the Heron ferry for adults?"},
        {"role": "assistant", "content": "14 € [1]"},
        {"role": "user", "content": "Thanks a lot, bye!"},
    ]
    raw = client.chat.completions.with_raw_response.create(model="flywheel", messages=turns, max_tokens=4)
    assert raw.headers["x-flywheel-route"] == "small_talk"


def test_routed_answer_streams_like_a_plain_one(client: Any, served: Served) -> None:
    chunks = list(
        client.chat.completions.create(
            model="flywheel",
            messages=[{"role": "user", "content": "What does the ferry cost?"}],
            max_tokens=8,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    with Session(served.database) as session:
        row = session.get_one(Interaction, chunks[0].id)
    assert (row.status, row.answer, row.route) == ("finished", text, "knowledge")
    assert chunks[-1].usage.completion_tokens == row.completion_tokens


def test_pinned_adapter_is_routed_when_its_tester_says_so(client: Any, served: Served) -> None:
    name = served.app.appliance.live.standing.champion
    answer = client.chat.completions.create(
        model=name,
        messages=[{"role": "user", "content": "What does the ferry cost?"}],
        max_tokens=2,
        metadata={"route": "auto"},
    )
    with Session(served.database) as session:
        assert session.get_one(Interaction, answer.id).route == "knowledge"


def test_documents_can_be_listed_read_searched_replaced_and_removed(api: httpx.Client) -> None:
    version = api.get("/v1/documents").json()["index_version"]
    assert api.post("/v1/documents", json={"title": "Moor hut", "text": "## Beds\nIt has 9 beds."}).status_code == 200
    found = api.post("/v1/search", json={"query": "How many beds?", "top_k": 1}).json()["data"][0]
    assert (found["document"], found["section"], found["text"]) == ("Moor hut", "Beds", "It has 9 beds.")
    api.post("/v1/documents", json={"title": "Moor hut", "text": "## Beds\nIt has 12 beds.", "actor": "olga"})
    assert [part["text"] for part in api.get("/v1/documents/Moor hut").json()["data"]] == ["It has 12 beds."]
    assert api.delete("/v1/documents/Moor hut", params={"actor": "olga"}).json()["deleted"] is True
    assert api.get("/v1/documents/Moor hut").status_code == 404
    listed = api.get("/v1/documents").json()
    assert [row["document"] for row in listed["data"]] == ["Heron ferry"]
    assert listed["index_version"] == version
    acts = [(entry["act"], entry["actor"]) for entry in api.get("/v1/audit").json()["data"]]
    assert acts[0] == ("remove_document", "olga")


@pytest.mark.parametrize("body", [{"title": "x"}, {"title": "x", "text": " "}, {"title": " ", "text": "words"}])
def test_document_without_title_or_words_is_refused(api: httpx.Client, body: Any) -> None:
    answer = api.post("/v1/documents", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_embeddings_come_in_both_of_openais_encodings(client: Any, api: httpx.Client) -> None:
    made = client.embeddings.create(model="any", input=["ferry", "boat"])
    assert [len(one.embedding) for one in made.data] == [384, 384]
    plain = api.post("/v1/embeddings", json={"input": "ferry", "encoding_format": "float"}).json()
    assert plain["data"][0]["embedding"] == pytest.approx(made.data[0].embedding, abs=1e-4)
    assert api.post("/v1/embeddings", json={"input": []}).status_code == 400


def test_ready_says_part_by_part_what_is_there(api: httpx.Client) -> None:
    answer = api.get("/readyz").json()
    assert answer["ready"] is True
    assert set(answer["parts"]) == {"database", "engine", "vector_store", "live_adapter", "writer"}
    assert api.get("/healthz").json() == {"status": "alive"}
    assert "flywheel_chats_total" in api.get("/metrics").text


def test_ready_says_which_part_hangs(api: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    over, asked = threading.Event(), []

    def hang(_: object) -> dict[str, Any]:
        asked.append("a look")
        over.wait(30)
        return {"ready": True, "detail": "again"}

    monkeypatch.setattr("serving.routes.health.PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr("serving.routes.health._database", hang)
    api.get("/readyz")
    answer = api.get("/readyz")
    assert asked == ["a look"]  # not a thread for each
    over.set()
    wait_until(lambda: api.get("/readyz").status_code == 200, seconds=10)
    assert answer.status_code == 503
    assert answer.json()["parts"]["database"] == {"ready": False, "detail": "does not answer within 0.1 seconds"}
    assert answer.json()["parts"]["vector_store"]["ready"]
