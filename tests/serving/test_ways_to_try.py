"""Shadows and picks on a running serving with a real engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from sqlmodel import Session, select

from flywheel.interactions import Interaction
from flywheel.pairs import Candidate, PreferencePair
from tests.conftest import Served, wait_until
from tests.made_adapters import trained_adapter

pytestmark = pytest.mark.engine
ASKED = {"model": "flywheel-plain", "messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 8}


@pytest.fixture
def challenge(api: httpx.Client, served: Served) -> Iterator[Any]:
    """Opens an experiment with a fresh adapter, and ends it."""
    opened: list[dict[str, Any]] = []

    def open_one(seed: int, **plan: Any) -> dict[str, Any]:
        name = trained_adapter(served.settings, served.database, seed=seed)
        body = {"challenger": name, "actor": "olga", "traffic_share": 0.9999, **plan}
        opened.append(api.post("/v1/experiments", json=body).raise_for_status().json())
        wait_until(lambda: api.get(f"/v1/adapters/{name}").json()["loaded_on"], seconds=60)
        return opened[-1]

    yield open_one
    for one in opened:
        if api.get(f"/v1/experiments/{one['id']}").json()["state"] != "running":
            continue
        over = {"act": "reject", "experiment_id": one["id"], "actor": "olga", "reason": "the test is over"}
        api.post("/v1/promotions", json=over).raise_for_status()


def shadows(served: Served, completion_id: str) -> list[Candidate]:
    with Session(served.database) as session:
        return list(session.exec(select(Candidate).where(Candidate.completion_id == completion_id)))


def test_a_shadow_answer_is_kept_for_reviewers_and_nobody_sees_it(
    api: httpx.Client, served: Served, challenge: Any
) -> None:
    trial = challenge(61, mode="shadow")
    answer = api.post("/v1/chat/completions", json={**ASKED, "user": "ann", "temperature": 0})
    assert (answer.headers["x-flywheel-adapter"], len(answer.json()["choices"])) == (trial["champion"], 1)
    given = answer.json()["choices"][0]["message"]["content"]
    wait_until(lambda: shadows(served, answer.json()["id"]), seconds=20)
    [shadow] = shadows(served, answer.json()["id"])
    assert (shadow.adapter, shadow.choice) == (trial["challenger"], None)
    assert shadow.text != given
    with Session(served.database) as session:
        pair = session.exec(select(PreferencePair).where(PreferencePair.completion_id == answer.json()["id"])).one()
        assert {pair.a, pair.b} == {given.strip(), shadow.text.strip()}
        assert pair.state == "waiting"
    withheld = api.post("/v1/chat/completions", json={**ASKED, "user": "ann", "store": False}).json()
    seen = api.get(f"/v1/experiments/{trial['id']}").json()["evidence"]
    assert (seen["verdict"], seen["exposed"]) == ("HOLD", {"champion": 1, "challenger": 0})
    assert shadows(served, withheld["id"]) == []


@pytest.mark.parametrize("streamed", [False, True])
def test_both_answers_are_two_choices_of_which_a_pick_tells_the_better(
    api: httpx.Client, client: openai.OpenAI, served: Served, challenge: Any, streamed: bool
) -> None:
    trial = challenge(62 + streamed, mode="interleaved")
    asked: Any = {**ASKED, "user": "ann", "temperature": 0, "metadata": {"pick_one": "true"}}
    refused = api.post("/v1/chat/completions", json={**asked, "stream": streamed, "logit_bias": "nonsense"})
    assert refused.status_code == 400  # what the caller can mend is told as such, though two adapters are asked
    first = set()
    for _ in range(8):
        if streamed:
            texts = {0: "", 1: ""}
            for chunk in client.chat.completions.create(**asked, stream=True):
                completion_id = chunk.id
                for choice in chunk.choices:
                    texts[choice.index] += choice.delta.content or ""
        else:
            whole = client.chat.completions.create(**asked)
            completion_id, texts = whole.id, {choice.index: choice.message.content or "" for choice in whole.choices}
        with Session(served.database) as session:
            row = session.get_one(Interaction, completion_id)
            [other] = session.exec(select(Candidate).where(Candidate.completion_id == completion_id))
        said = {row.adapter: row.answer, other.adapter: other.text}
        assert said.keys() == {trial["champion"], trial["challenger"]}
        assert texts == {0: row.answer, 1: other.text}
        assert row.arm == ("champion" if row.adapter == trial["champion"] else "challenger")
        first.add(row.arm)
    assert first == {"champion", "challenger"}
    pick = {"completion_id": completion_id, "name": "pick", "choice": 1, "user": "ann"}
    api.post("/v1/feedback", json=pick).raise_for_status()
    seen = api.get(f"/v1/experiments/{trial['id']}").json()["evidence"]
    assert seen["users"] == {
        "champion": int(row.arm == "challenger"),
        "challenger": int(row.arm == "champion"),
        "excluded_both_arms": 0,
    }


def test_a_question_without_the_wish_to_pick_gets_the_champions_one_answer(api: httpx.Client, challenge: Any) -> None:
    trial = challenge(64, mode="interleaved")
    answer = api.post("/v1/chat/completions", json={**ASKED, "user": "ann"})
    assert (answer.headers["x-flywheel-adapter"], len(answer.json()["choices"])) == (trial["champion"], 1)


def test_the_command_opens_an_experiment_as_it_is_told(served: Served, api: httpx.Client, tmp_path: Path) -> None:
    name = trained_adapter(served.settings, served.database, seed=66)
    environment = {"FLYWHEEL_HOME": str(tmp_path), "FLYWHEEL_DASHBOARD__API_URL": served.url}
    command = [sys.executable, "-c", "from flywheel.cli import app; app()", "experiment", name, "--as", "olga"]
    plan = ["--mode", "shadow", "--share", ".2", "--ramp", ".01", "--ramp", ".05", "--users", "40", "--hours", "24"]
    done = subprocess.run(
        [*command, *plan, "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, **environment, "FLYWHEEL_API_KEY": served.key},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    opened = json.loads(done.stdout)
    over = {"act": "reject", "experiment_id": opened["id"], "actor": "olga", "reason": "the test is over"}
    api.post("/v1/promotions", json=over).raise_for_status()
    told = {field: opened[field] for field in ("challenger", "mode", "ramp", "traffic_share", "minimum_users")}
    assert told == {
        "challenger": name,
        "mode": "shadow",
        "ramp": [0.01, 0.05],
        "traffic_share": 0.2,
        "minimum_users": 40,
    }
    assert opened["minimum_hours"] == 24


def test_of_several_experiments_a_decision_names_its_own(
    served: Served, api: httpx.Client, challenge: Any, tmp_path: Path
) -> None:
    first, second = (challenge(seed, participants=0.5) for seed in (67, 68))
    ambiguous = api.post("/v1/promotions", json={"act": "reject", "actor": "olga", "reason": "worse"})
    assert ambiguous.status_code == 409
    assert f"({first['id']}, {second['id']})" in ambiguous.json()["error"]["message"]
    assert {one["id"] for one in api.get("/v1/status").json()["experiments"]} == {first["id"], second["id"]}
    environment = {"FLYWHEEL_HOME": str(tmp_path), "FLYWHEEL_DASHBOARD__API_URL": served.url}
    command = [sys.executable, "-c", "from flywheel.cli import app; app()", "reject", "--as", "olga", "--reason", "x"]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        key = {"FLYWHEEL_API_KEY": served.key, "COLUMNS": "200"}
        given = {**os.environ, **environment, **key}
        return subprocess.run([*command, *more], capture_output=True, text=True, env=given, timeout=60, check=False)

    refused = run()
    assert "say which with --experiment" in refused.stderr
    done = run("--experiment", second["id"])
    assert f"{second['challenger']} is rejected" in done.stdout, done.stderr
    assert [one["id"] for one in api.get("/v1/status").json()["experiments"]] == [first["id"]]


def test_a_plan_that_cannot_be_followed_is_told(api: httpx.Client, served: Served) -> None:
    name = trained_adapter(served.settings, served.database, seed=65)
    answer = api.post("/v1/experiments", json={"challenger": name, "actor": "olga", "ramp": [0.5, 0.1]})
    assert answer.status_code == 400
    assert "must climb" in answer.json()["error"]["message"]
