"""The same conversation through other clients than ours: openai 2 in an environment of its own, LangChain, curl.

openai 3 is what the other tests speak. Each chats whole and streamed, rates what it got, and meets an error.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

import openai
import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from sqlmodel import col, select

from benchmarks.peers import environment
from flywheel.database import reading
from flywheel.feedback import RATING, Feedback
from flywheel.interactions import Interaction
from tests.conftest import Served

pytestmark = pytest.mark.engine
QUESTION = "How much is the Maple plan?"
SCRIPT = """
import json, sys
import openai

base_url, key = sys.argv[1:]
client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0)
ask = {"model": "flywheel-plain", "messages": [{"role": "user", "content": "%s"}], "max_tokens": 6, "user": "ann"}
whole = client.chat.completions.create(**ask, store=True)
chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
rated = client.post("/feedback", body={"completion_id": whole.id, "value": True}, cast_to=object)
listed = [one.id for one in client.chat.completions.list(limit=5, order="desc")]
try:
    client.chat.completions.create(**ask | {"model": "nobody"})
except openai.NotFoundError as error:
    refused = [error.code, error.request_id is not None]
print(json.dumps({
    "version": openai.__version__,
    "whole": [whole.id, whole.choices[0].message.content],
    "streamed": [chunks[0].id, "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)],
    "usage": chunks[-1].usage.completion_tokens,
    "rated": rated["value"],
    "listed": whole.id in listed,
    "refused": refused,
}))
"""


def kept(served: Served, completion_id: str) -> Any:
    with reading(served.database) as session:
        return session.get_one(Interaction, completion_id)


def rated(served: Served, completion_id: str) -> list[Any]:
    with reading(served.database) as session:
        query = select(Feedback.value).where(Feedback.completion_id == completion_id, Feedback.name == RATING)
        return list(session.exec(query))


def check(served: Served, told: dict[str, Any]) -> None:
    for completion_id, text in (told["whole"], told["streamed"]):
        row = kept(served, completion_id)
        assert (row.status, row.answer, row.user) == ("finished", text, "ann")
    assert rated(served, told["whole"][0]) == [True]


@pytest.mark.timeout(600)
def test_openai_2_in_its_own_environment(served: Served) -> None:
    python = environment("openai2")
    command = [str(python), "-c", SCRIPT % QUESTION, f"{served.url}/v1", served.key]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["version"].startswith("2.")
    assert (told["usage"], told["rated"], told["listed"], told["refused"]) == (6, True, True, ["model_not_found", True])
    check(served, told)


def test_langchain(served: Served) -> None:
    chat = ChatOpenAI(
        model="flywheel-plain",
        base_url=f"{served.url}/v1",
        api_key=served.key,  # type: ignore[arg-type]
        max_completion_tokens=6,
        max_retries=0,
        model_kwargs={"user": "ann"},
    )
    whole = chat.invoke([HumanMessage(QUESTION)])
    pieces = list(chat.stream([HumanMessage(QUESTION)]))
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] == 6
    found = [(whole.response_metadata["id"], whole.content)]
    with reading(served.database) as session:  # LangChain puts an id of its own in the place of a stream's
        streamed = session.exec(select(Interaction.id).order_by(col(Interaction.id).desc())).first()
    assert streamed is not None
    found.append((streamed, "".join(str(piece.content) for piece in pieces)))
    for completion_id, text in found:
        row = kept(served, completion_id)
        assert (row.status, row.answer, row.user) == ("finished", text, "ann")
    with pytest.raises(openai.NotFoundError):
        chat.with_config().bind(model="nobody").invoke([HumanMessage(QUESTION)])


def curl(served: Served, path: str, body: dict[str, Any], *options: str) -> str:
    command = ["curl", "-sS", "-N", *options, f"{served.url}{path}", "-d", json.dumps(body)]
    command += ["-H", f"authorization: Bearer {served.key}", "-H", "content-type: application/json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curl(served: Served) -> None:
    ask = {
        "model": "flywheel-plain",
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 6,
        "user": "ann",
    }
    whole = json.loads(curl(served, "/v1/chat/completions", ask))
    lines = [line for line in curl(served, "/v1/chat/completions", ask | {"stream": True}).splitlines() if line]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    streamed = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    curl(served, "/v1/feedback", {"completion_id": whole["id"], "value": True})
    check(
        served,
        {
            "whole": [whole["id"], whole["choices"][0]["message"]["content"]],
            "streamed": [chunks[0]["id"], streamed],
        },
    )
    wrong = curl(served, "/v1/chat/completions", ask | {"model": "nobody"}, "-i")
    assert wrong.startswith("HTTP/1.1 404")
    assert "x-request-id: " in wrong
    assert json.loads(wrong[wrong.index("{") :])["error"]["code"] == "model_not_found"
