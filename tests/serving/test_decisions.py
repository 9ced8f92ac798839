"""A decision that two people take, through the API and the command line, on a running serving with a real engine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from flywheel.adapters import adapter
from flywheel.database import reading, writing
from flywheel.experiments import Experiment, record_evidence
from flywheel.keys import create_key
from flywheel.processes import answers
from flywheel.runs import TrainingRun
from flywheel.settings import load_settings
from tests.conftest import Served, serving_on, wait_until
from tests.made_adapters import trained_adapter

pytestmark = pytest.mark.engine
Flywheel = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def served(engine_url: str, base_model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serving where two people decide, and nobody about what they trained."""
    settings = load_settings(
        home=tmp_path_factory.mktemp("home"),
        base_model=base_model,
        engine={"urls": [engine_url]},
        serving={"port": 0, "reconcile_seconds": 0.3, "look_seconds": 600},
        promotion={"approvers": 2, "trainer_may_approve": False},
    )
    with serving_on(settings) as found:
        wait_until(lambda: answers(f"{found.url}/readyz"), seconds=280)
        yield found


@pytest.fixture(scope="module")
def key_of(served: Served) -> Callable[[str], str]:
    """The secret of a new key in somebody's name."""

    def make(name: str) -> str:
        with writing(served.database) as session:
            return create_key(session, tenant="default", name=name, scope="operate", actor="test")[1]

    return make


@pytest.fixture(scope="module")
def flywheel(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Flywheel:
    """The command, on a machine that is not the appliance's."""
    home = str(tmp_path_factory.mktemp("elsewhere"))

    def run(*arguments: str, key: str) -> subprocess.CompletedProcess[str]:
        variables = {"FLYWHEEL_HOME": home, "FLYWHEEL_DASHBOARD__API_URL": served.url, "FLYWHEEL_API_KEY": key}
        return subprocess.run(
            [sys.executable, "-c", "from flywheel.cli import app; app()", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "COLUMNS": "200", **variables},
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def shipped(served: Served) -> dict[str, Any]:
    """An experiment that says SHIP, of a challenger that every engine is ready for."""
    name = trained_adapter(served.settings, served.database, seed=31)
    with httpx.Client(base_url=served.url, headers=served.authorized, timeout=60) as api:
        opened = api.post("/v1/experiments", json={"challenger": name, "actor": "olga"}).json()
        wait_until(lambda: api.get(f"/v1/adapters/{name}").json()["loaded_on"], seconds=60)
    with writing(served.database) as session:
        trial = session.get_one(Experiment, opened["id"])
        record_evidence(session, trial, {"verdict": "SHIP", "sentence": "better"})
        session.refresh(trial)
        run = session.get_one(TrainingRun, adapter(session, name).run_id)
        return {"id": opened["id"], "hash": trial.evidence_hash, "adapter": name, "trainer": run.requested_by}


def approve(served: Served, key: str, trial: dict[str, Any], **values: str) -> httpx.Response:
    body = {"act": "promote", "experiment_id": trial["id"], "evidence_hash": trial["hash"], "reason": "reads better"}
    return httpx.post(
        f"{served.url}/v1/promotions", json=body | values, headers={"authorization": f"Bearer {key}"}, timeout=60
    )


def test_two_people_decide_and_the_records_tell_of_it(
    served: Served, shipped: dict[str, Any], key_of: Callable[[str], str], flywheel: Flywheel
) -> None:
    olga, trainer, desk, mira = (key_of(name) for name in ("olga", shipped["trainer"], "desk", "mira"))
    for key, did in ((olga, "opened the experiment"), (trainer, "asked for run")):
        refused = approve(served, key, shipped)
        assert refused.status_code == 412
        assert did in refused.json()["error"]["missing"][0]
    first = approve(served, desk, shipped, actor="rita")
    assert (first.status_code, first.json()["kind"]) == (202, "approve")
    assert first.json()["approvals"]["missing"] == [
        "2 people approve a promotion here, and 1 did: somebody else than rita (desk) is needed"
    ]
    assert approve(served, desk, shipped, actor="rob").status_code == 202  # the same key: no second person
    assert "the evidence is now" in approve(served, mira, shipped, evidence_hash="0" * 64).text

    done = flywheel("promote", "--reason", "facts intact", "--evidence", shipped["hash"], "--as", "mira", key=mira)
    assert f"{shipped['adapter']} is live." in done.stdout, done.stderr
    ledger = flywheel("promotions", key=mira).stdout
    assert f"{shipped['adapter']} is live for flywheel" in ledger
    assert "facts intact" in ledger
    was = flywheel("promotions", "--at", "2001-01-01T00:00", key=mira).stdout
    assert "nothing was live for flywheel at 2001-01-01T00:00:00" in was
    bad = flywheel("promotions", "--at", "yesterday", key=mira)
    assert bad.returncode == 1
    assert "Traceback" not in bad.stderr
    allowed = flywheel("merge", "--reason", "faster", key=mira)
    assert f"{shipped['adapter']} is being merged" in allowed.stdout, allowed.stderr
    assert "allowed; the worker will write the weights" in flywheel("status", key=mira).stdout
    kept = httpx.get(f"{served.url}/v1/merges", headers=served.authorized).json()
    assert (kept["merge"]["state"], kept["in_service"]) == ("asked", False)
    assert "may be merged already" in flywheel("merge", "--reason", "again", key=mira).stderr
    assert "as an adapter again" in flywheel("merge", "--withdraw", "--reason", "enough", key=mira).stdout
    back = flywheel("rollback", "--reason", "tone", key=mira)  # one person, at once
    assert "is live again" in back.stdout, back.stderr
    assert "the base model itself answers" in flywheel("merge", "--reason", "faster", key=mira).stderr
    with reading(served.database) as session:
        assert session.get_one(Experiment, shipped["id"]).state == "promoted"


def test_lineage_cards_and_the_audit_are_read_on_the_command_line(
    served: Served, shipped: dict[str, Any], key_of: Callable[[str], str], flywheel: Flywheel
) -> None:
    key = key_of("ada")
    body = {
        "model": "flywheel-plain",
        "messages": [{"role": "user", "content": "Hello"}],
        "user": "ann",
        "max_tokens": 4,
    }
    with httpx.Client(base_url=served.url, headers=served.authorized, timeout=60) as api:
        answer = api.post("/v1/chat/completions", json=body).json()["id"]
    assert answer in flywheel("lineage", answer, key=key).stdout
    assert shipped["adapter"] in flywheel("lineage", shipped["adapter"], key=key).stdout
    assert answer in flywheel("lineage", "--user", "ann", key=key).stdout
    assert "Nobody called 'zoe'" in flywheel("lineage", "--user", "zoe", key=key).stderr
    assert "Name one of them" in flywheel("lineage", key=key).stderr
    assert "published without a model card" in flywheel("card", shipped["adapter"], key=key).stderr
    whole = flywheel("audit", "verify", key=key)
    head = whole.stdout.split("head ")[1].strip()
    assert flywheel("audit", "verify", "--head", head, key=key).returncode == 0
    cut = flywheel("audit", "verify", "--head", f"{int(head.partition(':')[0]) + 5}:{'0' * 64}", key=key)
    assert (cut.returncode, cut.stdout.startswith("Broken at position ")) == (1, True)
