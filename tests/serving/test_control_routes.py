"""The review and turning sides of the API, on a running serving with a real engine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine as Database

from flywheel.database import writing
from flywheel.experiments import Experiment, record_evidence
from flywheel.interactions import interaction
from flywheel.keys import create_key
from tests.conftest import Served, wait_until
from tests.made_adapters import trained_adapter
from tests.made_records import (
    decided_pair,
    ended_run,
    made_adapter,
    made_dataset,
    made_interaction,
    made_pair,
    made_rating,
    unstored_experiment,
)

pytestmark = pytest.mark.engine


@pytest.fixture
def api(served: Served) -> Iterator[httpx.Client]:
    """With the key of a program that many use: each act bears its name, too."""
    with writing(served.database) as session:
        _, secret = create_key(session, tenant="default", name="console", scope="operate", actor="test")
    with httpx.Client(base_url=served.url, timeout=60, headers={"authorization": f"Bearer {secret}"}) as client:
        yield client


def get(api: httpx.Client, path: str, **query: Any) -> Any:
    answer = api.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def post(api: httpx.Client, path: str, **body: Any) -> Any:
    answer = api.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(api: httpx.Client, path: str, status: int, **body: Any) -> Any:
    """The error of a request that must be refused, in OpenAI's shape."""
    answer = api.post(path, json=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert isinstance(error["code"], str)
    assert answer.headers["x-request-id"]
    return error


def chat(api: httpx.Client, user: str, **values: Any) -> httpx.Response:
    messages = [{"role": "user", "content": "How do I change my password?"}]
    body = {"model": "flywheel-plain", "messages": messages, "user": user, "max_tokens": 4} | values
    answer = api.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer


def live(api: httpx.Client) -> str:
    return str(get(api, "/v1/promotions")["live"]["adapter"])


def challenge(api: httpx.Client, served: Served, seed: int) -> tuple[str, dict[str, Any]]:
    """A new adapter in an experiment against the live one, ready to be asked."""
    name = trained_adapter(served.settings, served.database, seed=seed)
    opened = post(api, "/v1/experiments", challenger=name, actor="olga", minimum_users=10)
    wait_until(lambda: get(api, f"/v1/adapters/{name}")["loaded_on"], seconds=60)
    return name, opened


def give_evidence(database: Database, experiment_id: str, verdict: str = "SHIP") -> str:
    """Evidence as a look would leave it; returns its hash."""
    with writing(database) as session:
        trial = session.get_one(Experiment, experiment_id)
        record_evidence(session, trial, {"verdict": verdict})
        session.refresh(trial)
        assert trial.evidence_hash is not None
        return trial.evidence_hash


def end_running(api: httpx.Client) -> None:
    for row in get(api, "/v1/experiments")["data"]:
        if row["state"] == "running":
            post(api, "/v1/promotions", act="reject", experiment_id=row["id"], actor="olga", reason="the test is over")


def test_from_challenge_to_promotion_to_rollback_and_forward(api: httpx.Client, served: Served) -> None:
    champion = live(api)
    challenger, opened = challenge(api, served, seed=1)
    users = [f"user-{number}" for number in range(12)]
    arms = {}
    for user in users:
        answer = chat(api, user)
        arms[user] = answer.headers["x-flywheel-arm"]
        assert arms[user] == unstored_experiment(salt=opened["id"]).assignment().arm_of(user)
        expected = challenger if arms[user] == "challenger" else champion
        assert answer.headers["x-flywheel-adapter"] == expected == answer.json()["system_fingerprint"]
        post(api, "/v1/feedback", completion_id=answer.json()["id"], value=arms[user] == "challenger", user=user)
    assert set(arms.values()) == {"champion", "challenger"}
    seen = get(api, f"/v1/experiments/{opened['id']}")["evidence"]
    assert sum(seen["users"].values()) == len(users)
    assert seen["difference"] == 1.0
    assert seen["looks"]

    error = refused(api, "/v1/promotions", 412, act="promote", actor="olga", reason="", evidence_hash="0" * 64)
    assert any("HOLD, not SHIP" in sentence for sentence in error["missing"])
    assert any("look at it again" in sentence for sentence in error["missing"])
    assert live(api) == champion

    approved = give_evidence(served.database, opened["id"])
    row = post(api, "/v1/promotions", act="promote", actor="olga", reason="better", evidence_hash=approved)
    assert (row["adapter"], row["previous"], live(api)) == (challenger, champion, challenger)
    answer = chat(api, "ann")
    assert (answer.headers["x-flywheel-adapter"], answer.headers["x-flywheel-epoch"]) == (challenger, row["id"])

    began = time.monotonic()
    back = post(api, "/v1/promotions", act="roll_back", actor="olga", reason="complaints")
    assert chat(api, "ann").headers["x-flywheel-adapter"] == champion == back["adapter"]
    assert time.monotonic() - began < 20
    forward = post(api, "/v1/promotions", act="roll_back", actor="olga", reason="a false alarm")
    assert chat(api, "ann").headers["x-flywheel-adapter"] == challenger == forward["adapter"]
    assert [row["kind"] for row in get(api, "/v1/promotions")["data"]] == ["roll_back", "roll_back", "promote"]
    assert get(api, f"/v1/adapters/{challenger}")["live_for"] == ["flywheel", "flywheel-plain"]


def test_a_challenger_that_an_engine_cannot_serve_is_not_promoted(api: httpx.Client, served: Served) -> None:
    name = trained_adapter(served.settings, served.database, seed=5, manifest={})
    opened = post(api, "/v1/experiments", challenger=name, actor="olga")
    approved = give_evidence(served.database, opened["id"])
    error = refused(api, "/v1/promotions", 412, act="promote", actor="olga", reason="better", evidence_hash=approved)
    assert error["missing"] == [sentence for sentence in error["missing"] if "not ready on the engine" in sentence]
    assert not chat(api, "ann").headers.get("x-flywheel-arm")
    end_running(api)


def test_a_rollback_to_an_adapter_that_is_not_loaded_loads_it_first(api: httpx.Client, served: Served) -> None:
    first = live(api)
    for seed in (6, 7):
        _, opened = challenge(api, served, seed=seed)
        approved = give_evidence(served.database, opened["id"])
        post(api, "/v1/promotions", act="promote", actor="olga", reason="better", evidence_hash=approved)
    newest = live(api)
    if not first.startswith("identity"):
        wait_until(lambda: not get(api, f"/v1/adapters/{first}")["loaded_on"])
        error = refused(api, "/v1/promotions", 503, act="roll_back", actor="olga", reason="complaints", adapter=first)
        assert "being loaded" in error["message"]
        assert live(api) == newest
        wait_until(lambda: get(api, f"/v1/adapters/{first}")["loaded_on"], seconds=60)
    post(api, "/v1/promotions", act="roll_back", actor="olga", reason="complaints", adapter=first)
    assert live(api) == first


def test_an_experiment_that_cannot_be_is_refused(api: httpx.Client, served: Served) -> None:
    assert refused(api, "/v1/experiments", 404, challenger="lora-000000000000", actor="olga")["code"] == "not_found"
    assert "itself" in refused(api, "/v1/experiments", 409, challenger=live(api), actor="olga")["message"]
    foreign = trained_adapter(served.settings, served.database, seed=9, base_model_hash="another")
    assert "another base" in refused(api, "/v1/experiments", 400, challenger=foreign, actor="olga")["message"]
    assert api.get("/v1/experiments/exp-0").status_code == 404


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"act": "praise", "actor": "olga"}),
        (400, {"act": "promote", "actor": "olga", "evidense_hash": "x"}),
        (404, {"act": "promote", "actor": "olga", "experiment_id": "exp-0"}),
        (404, {"act": "roll_back", "actor": "olga", "reason": "r", "adapter": "lora-000000000000"}),
        (409, {"act": "reject", "actor": "olga", "reason": "nothing runs"}),
    ],
)
def test_a_decision_that_makes_no_sense_is_one_clear_line(api: httpx.Client, status: int, body: dict[str, str]) -> None:
    end_running(api)
    assert "\n" not in refused(api, "/v1/promotions", status, **body)["message"]


def test_low_rated_answers_become_pairs_that_are_judged_blind(api: httpx.Client, served: Served) -> None:
    with writing(served.database) as session:
        completion_id = made_interaction(session, parameters={"stop": ["e", "a"]}).id
    post(api, "/v1/feedback", completion_id=completion_id, value=False, user="ann")
    filled = post(api, "/v1/reviews/refill", candidates=4, temperature=1.5)
    assert filled["interactions"] >= 1
    assert filled["candidates"] >= filled["pairs"]
    with writing(served.database) as session:
        made_pair(session, interaction(session, completion_id, tenant="default"), text="Ask an administrator.")
    found = get(api, "/v1/reviews/next", reviewer="rita")
    pair = found["pair"]
    assert set(pair) == {"id", "question", "prompt", "passages", "a", "b", "created_at"}
    assert pair["question"] == "How do I change my password?"
    assert found["counts"]["waiting"] >= 1
    judged = post(api, "/v1/judgments", pair_id=pair["id"], verdict="a", reviewer="rita", source="person")
    assert judged["counts"]["decided"] == found["counts"]["decided"] + 1
    again = post(api, "/v1/judgments", pair_id=pair["id"], verdict="a", reviewer="rita")
    assert again["id"] == judged["id"]
    assert refused(api, "/v1/judgments", 409, pair_id=pair["id"], verdict="b", reviewer="rita")["code"] == "conflict"
    refused(api, "/v1/judgments", 404, pair_id="pair-0", verdict="a", reviewer="rita")
    refused(api, "/v1/judgments", 400, pair_id=pair["id"], verdict="best", reviewer="rob")
    listed = get(api, "/v1/pairs", state="decided", limit=1)
    assert listed["data"][0]["chosen"] == "a"


def test_a_second_refill_takes_nothing_twice(api: httpx.Client, served: Served) -> None:
    with writing(served.database) as session:
        row = made_interaction(session, parameters={"stop": ["e", "a"]})
        made_rating(session, row, False)
        made_pair(session, row)
    before = get(api, "/v1/pairs", limit=500)
    post(api, "/v1/reviews/refill", limit=1000)
    of_row = [pair for pair in get(api, "/v1/pairs", limit=500)["data"] if pair["completion_id"] == row.id]
    assert len(of_row) == 1
    assert len(before["data"]) >= 1


def test_a_run_is_asked_for_watched_and_cancelled(api: httpx.Client) -> None:
    run = post(api, "/v1/runs", requested_by="olga", recipe={"epochs": 1})
    assert (run["state"], run["recipe"], run["requested_by"]) == ("queued", {"epochs": 1}, "olga (console)")
    assert get(api, "/v1/runs")["data"][0]["id"] == run["id"]
    assert get(api, f"/v1/runs/{run['id']}")["events"] == []
    assert post(api, f"/v1/runs/{run['id']}/cancel", actor="olga")["state"] == "cancelled"
    refused(api, f"/v1/runs/{run['id']}/cancel", 409, actor="olga")
    assert api.get("/v1/runs/run-0").status_code == 404


def test_lineage_and_datasets_are_read_back(api: httpx.Client, served: Served) -> None:
    answer = chat(api, "ann").json()["id"]
    found = get(api, f"/v1/lineage/{answer}")
    assert found["completion"]["id"] == answer
    assert found["adapter"]["name"] == found["completion"]["adapter"]
    with writing(served.database) as session:
        dataset = made_dataset(session, [decided_pair(session, made_interaction(session))]).name
        name = trained_adapter_record(session, dataset)
        trained_answer = made_interaction(session, adapter=name).id
    found = get(api, f"/v1/lineage/{trained_answer}")
    assert (found["dataset"]["name"], found["total"], len(found["pairs"])) == (dataset, 1, 1)
    assert get(api, "/v1/datasets")["data"][0]["name"] == dataset
    assert get(api, f"/v1/datasets/{dataset}")["train_rows"] == 1
    assert api.get("/v1/datasets/ds-0").status_code == api.get("/v1/lineage/chatcmpl-0").status_code == 404


def trained_adapter_record(session: Any, dataset: str) -> str:
    run = ended_run(session, adapter="lora-00000000000a", dataset=dataset)
    return made_adapter(session, "lora-00000000000a", run_id=run.id).name


def test_every_act_above_stands_in_an_unbroken_audit(api: httpx.Client) -> None:
    verified = get(api, "/v1/audit/verify")
    assert verified["first_broken_position"] is None
    newest = get(api, "/v1/audit", limit=1)["data"][0]
    assert (verified["entries"], verified["head"]) == (newest["position"], newest["hash"])
    acts = {(entry["act"], entry["actor"]) for entry in get(api, "/v1/audit", limit=1000)["data"]}
    olgas = {"promote", "roll_back", "reject", "queue_run", "cancel_run", "open_experiment"}
    assert {(act, "olga (console)") for act in olgas} | {("judge", "rita (console)")} <= acts
    assert not {actor for _, actor in acts} & {"olga", "rob"}
    older = get(api, "/v1/audit", limit=5, before=newest["position"])["data"]
    assert [entry["position"] for entry in older] == [newest["position"] - 1 - n for n in range(5)]
    assert get(api, "/v1/audit/verify", head="0" * 64)["first_broken_position"] == newest["position"] + 1


def test_the_status_shows_who_is_live_what_there_is_and_what_the_engines_hold(
    api: httpx.Client, served: Served
) -> None:
    found = get(api, "/v1/status")
    assert found["live"] == get(api, "/v1/promotions")["live"]
    assert found["counts"]["interactions"] >= 1
    assert found["counts"]["runs"] >= 1
    [engine] = found["engines"]
    assert (engine["url"], engine["ready"]) == (served.settings.engine.urls[0], True)
    assert found["live"]["adapter"] in engine["adapters"]
