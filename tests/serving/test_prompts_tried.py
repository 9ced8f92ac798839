"""Prompts tried, promoted and taken back on a running serving, before an engine that repeats what it was told."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlmodel import Session, select

from flywheel.interactions import Interaction
from flywheel.pairs import Candidate
from flywheel.processes import answers
from flywheel.prompt_versions import SHIPPED_WORDING
from flywheel.settings import STARTER, load_settings
from tests.conftest import Served, serving_on, wait_until
from tests.made_records import unstored_experiment
from tests.serving import scripted_engine
from tests.serving.scripted_engine import ScriptedReplica

QUESTION = "echo how much does the heron ferry cost?"
SHIPPED = SHIPPED_WORDING.knowledge
USERS = [f"user-{number}" for number in range(16)]
Json = dict[str, Any]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    replica = ScriptedReplica()
    settings = load_settings(
        home=tmp_path_factory.mktemp("home"),
        base_model=str(STARTER),
        engine={"urls": [replica.url]},
        serving={"port": 0, "reconcile_seconds": 0.3},
    )
    with serving_on(settings) as found:
        wait_until(lambda: answers(f"{found.url}/readyz"), seconds=280)
        document = {"title": "Heron ferry", "text": "## Price\nThe heron ferry costs 14 €."}
        httpx.post(f"{found.url}/v1/documents", json=document, headers=found.authorized).raise_for_status()
        yield found
    replica.stop()


@pytest.fixture
def challenge(api: httpx.Client) -> Iterator[Callable[..., Json]]:
    """Lets a wording that begins so challenge the live one; what still runs at the end is rejected."""
    opened: list[Json] = []

    def open_one(knowledge: str, **plan: Any) -> Json:
        body = {"prompt": kept(api, knowledge)["version"], "actor": "olga", **plan}
        opened.append(api.post("/v1/experiments", json=body).raise_for_status().json())
        return opened[-1]

    yield open_one
    for one in opened:
        if api.get(f"/v1/experiments/{one['id']}").json()["state"] == "running":
            decide(api, "reject", experiment_id=one["id"])


def kept(api: httpx.Client, knowledge: str) -> Json:
    wording = SHIPPED_WORDING.model_dump() | {"knowledge": knowledge}
    body = {"wording": wording, "note": "shorter", "actor": "pia"}
    found: Json = api.post("/v1/prompts", json=body).raise_for_status().json()
    return found


def decide(api: httpx.Client, act: str, **values: Any) -> Json:
    body = {"act": act, "actor": "olga", "reason": "a test", **values}
    found: Json = api.post("/v1/promotions", json=body).raise_for_status().json()
    return found


def promoted(api: httpx.Client, trial: Json) -> Json:
    evidence = api.get(f"/v1/experiments/{trial['id']}").json()["evidence_hash"]
    return decide(api, "promote", experiment_id=trial["id"], evidence_hash=evidence, override=True)


def ask(api: httpx.Client, user: str, **values: Any) -> httpx.Response:
    body = {"model": "flywheel", "messages": [{"role": "user", "content": QUESTION}], "user": user, **values}
    return api.post("/v1/chat/completions", json=body).raise_for_status()


def words(answer: httpx.Response) -> list[str]:
    """What each choice was told by its system message."""
    return [choice["message"]["content"] for choice in answer.json()["choices"]]


def row_of(served: Served, answer: httpx.Response) -> Interaction:
    with Session(served.database) as session:
        return session.get_one(Interaction, answer.json()["id"])


def candidates(served: Served, answer: httpx.Response) -> list[Candidate]:
    with Session(served.database) as session:
        return list(session.exec(select(Candidate).where(Candidate.completion_id == answer.json()["id"])))


def test_each_arm_is_asked_in_its_own_words_and_the_plain_alias_is_in_none(
    api: httpx.Client, served: Served, challenge: Callable[..., Json]
) -> None:
    trial = challenge("Say it in one line.")
    assert trial["champion"] == trial["challenger"]
    versions = {"champion": SHIPPED_WORDING.version, "challenger": trial["challenger_prompt"]}
    met = set()
    for user in USERS:
        answer = ask(api, user)
        arm, row = answer.headers["x-flywheel-arm"], row_of(served, answer)
        met.add(arm)
        assert arm == unstored_experiment(salt=trial["id"]).assignment().arm_of(user)
        assert words(answer) == [{"champion": SHIPPED, "challenger": "Say it in one line."}[arm]]
        assert row.prompt_version == versions[arm] == answer.headers["x-flywheel-prompt"]
        plain = row_of(served, ask(api, user, model="flywheel-plain"))
        assert (plain.arm, plain.experiment_id, plain.prompt_version) == (None, None, None)
        pinned = ask(api, user, model="flywheel-plain", metadata={"route": "auto"})
        assert pinned.headers["x-flywheel-arm"] == arm
    assert met == {"champion", "challenger"}
    found = api.get(f"/v1/experiments/{trial['id']}").json()
    assert found["evidence"]["variants"]["challenger"]["prompt"] == trial["challenger_prompt"]
    assert found["prompts"]["challenger"]["wording"]["knowledge"] == "Say it in one line."
    assert found["prompts"]["champion"]["shipped"] is True


def test_a_promotion_changes_the_words_at_once_and_a_rollback_brings_them_back(
    api: httpx.Client, challenge: Callable[..., Json]
) -> None:
    first, second = (promoted(api, challenge(knowledge)) for knowledge in ("Be brief.", "Be kind."))
    assert {words(ask(api, user))[0] for user in USERS} == {"Be kind."}
    live = api.get("/v1/promotions").json()["live"]
    assert (live["prompt"], live["epoch"]) == (second["prompt"], second["id"])
    assert api.get("/v1/prompts").json()["live"] == second["prompt"]
    itself = api.post("/v1/experiments", json={"prompt": second["prompt"], "actor": "olga"})
    assert (itself.status_code, "itself" in itself.text) == (409, True)
    back = decide(api, "roll_back")
    assert (back["prompt"], back["previous_prompt"]) == (first["prompt"], second["prompt"])
    assert words(ask(api, "ann")) == ["Be brief."]
    decide(api, "roll_back", prompt="shipped")
    assert words(ask(api, "ann")) == [SHIPPED]
    refused = api.post("/v1/promotions", json={"act": "roll_back", "actor": "olga", "reason": "r", "prompt": "x"})
    assert (refused.status_code, "flywheel prompts" in refused.text) == (404, True)


def test_a_shadow_answers_in_the_challengers_words(
    api: httpx.Client, served: Served, challenge: Callable[..., Json]
) -> None:
    trial = challenge("Say it unseen.", mode="shadow", traffic_share=0.9999)
    answer = ask(api, "ann")
    assert words(answer) == [SHIPPED]
    wait_until(lambda: candidates(served, answer), seconds=20)
    [shadow] = candidates(served, answer)
    assert (shadow.text, shadow.adapter) == ("Say it unseen.", trial["challenger"])
    assert shadow.prompt_version == trial["challenger_prompt"]
    exposed = api.get(f"/v1/experiments/{trial['id']}").json()["evidence"]["exposed"]
    assert exposed == {"champion": 1, "challenger": 0}


def test_of_two_answers_by_one_adapter_a_pick_is_the_right_prompts(
    api: httpx.Client, served: Served, challenge: Callable[..., Json]
) -> None:
    trial = challenge("Say it again.", mode="interleaved", traffic_share=0.9999)
    wins, order = 0, set()
    for user in USERS:
        answer = ask(api, user, metadata={"pick_one": "true"})
        row, [other] = row_of(served, answer), candidates(served, answer)
        first = {"champion": SHIPPED, "challenger": "Say it again."}[row.arm or ""]
        assert words(answer) == [first, "Say it again." if first == SHIPPED else SHIPPED] == [row.answer, other.text]
        assert {row.prompt_version, other.prompt_version} == {SHIPPED_WORDING.version, trial["challenger_prompt"]}
        assert (row.prompt_version == trial["challenger_prompt"]) == (row.arm == "challenger")
        assert len(set(scripted_engine.asked_as[-2:])) == 2
        order.add(row.arm)
        wins += row.arm == "challenger"
        pick = {"completion_id": row.id, "name": "pick", "choice": 0, "user": user}
        api.post("/v1/feedback", json=pick).raise_for_status()
    assert order == {"champion", "challenger"}
    users = api.get(f"/v1/experiments/{trial['id']}").json()["evidence"]["users"]
    assert (users["challenger"], users["champion"]) == (wins, len(USERS) - wins)


def test_of_two_answers_one_whose_engine_dies_before_its_first_word_is_asked_again(
    api: httpx.Client, served: Served, challenge: Callable[..., Json]
) -> None:
    challenge("Say it twice.", mode="interleaved", traffic_share=0.9999)
    before = len(scripted_engine.asked)
    asked = [{"role": "user", "content": "mute how much does the heron ferry cost?"}]
    answer = ask(api, USERS[0], messages=asked, metadata={"pick_one": "true"})
    assert words(answer) == [scripted_engine.CITED] * 2
    assert len(scripted_engine.asked) == before + 4


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/v1/prompts", {"wording": {"knowledge": "x"}}, "passage: Field required"),
        ("/v1/prompts", {"wording": SHIPPED_WORDING.model_dump()}, "that Flywheel ships"),
        ("/v1/prompts", {"wording": SHIPPED_WORDING.model_dump() | {"passage": "{number}"}}, "lacks {text}"),
        ("/v1/experiments", {}, "Name a challenger"),
        ("/v1/experiments", {"prompt": "0" * 12}, "No prompt version"),
    ],
)
def test_what_cannot_be_kept_or_tried_is_refused_in_words(api: httpx.Client, path: str, body: Json, says: str) -> None:
    answer = api.post(path, json={"actor": "olga", **body})
    assert answer.status_code in (400, 404)
    assert says in answer.json()["error"]["message"]


def test_commands_show_edit_add_try_and_take_back(api: httpx.Client, served: Served, tmp_path: Path) -> None:
    def flywheel(*arguments: str) -> str:
        environment = {"FLYWHEEL_HOME": str(tmp_path), "FLYWHEEL_DASHBOARD__API_URL": served.url, "COLUMNS": "200"}
        done = subprocess.run(
            [sys.executable, "-c", "from flywheel.cli import app; app()", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, **environment, "FLYWHEEL_API_KEY": served.key},
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    file = tmp_path / "prompt.toml"
    file.write_text(flywheel("prompts", "show"))
    assert "that Flywheel ships" in flywheel("prompts", "add", str(file))
    file.write_text(file.read_text().replace(SHIPPED, r"Say \"it\" \\ [bold]short."))
    version = flywheel("prompts", "add", str(file), "--note", "tried by hand", "--as", "pia").split()[0]
    odd = kept(api, 'Two lines:\n"""quoted""" \\ and\ttabs.')
    for name in (version, odd["version"]):
        file.write_text(flywheel("prompts", "show", name))
        assert flywheel("prompts", "add", str(file)).split()[0] == name
    assert "tried by hand" in flywheel("prompts")
    opened = flywheel("experiment", "--prompt", version, "--as", "olga")
    assert f"with prompt {version}" in opened
    assert "with prompt shipped" in opened
    assert "gate is not asked" in opened
    flywheel("reject", "--reason", "the test is over")
    (tmp_path / "bad.toml").write_text("knowledge = 2026-01-01\n")
    assert "is no text" in flywheel("prompts", "add", str(tmp_path / "bad.toml"))
    assert "cannot be read" in flywheel("prompts", "add", str(tmp_path / "none.toml"))
