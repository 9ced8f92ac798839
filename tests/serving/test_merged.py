"""The champion merged into the base weights: into service, out of it, and never a moment without an answer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine as Database

from benchmarks.made_lora import publish_lora
from flywheel.adapters import adapter
from flywheel.database import reading, writing
from flywheel.errors import UnavailableError
from flywheel.merges import ASKED, FAILED, SERVING, WRITTEN, Merge, allow_merge, merged_folder, move_merge, newest_merge
from flywheel.promotions import Approval, live_adapter, promote, roll_back
from flywheel.settings import STARTER, load_settings
from flywheel.variants import Variant
from serving.leadership import LEASE_SECONDS
from serving.live import read_base_model
from serving.reconcile import DRAIN_SECONDS
from tests.made_control import Control
from tests.made_records import ALIAS, TENANT, made_adapter, made_experiment
from tests.serving.scripted_replicas import LOG_PROBS, Clock, Replica

ADAPTERS, MERGED = "http://adapters", "http://merged"
USERS = [f"user-{number}" for number in range(20)]


class Switched(Replica):
    """A replica that can be off."""

    on = True

    async def refuses(self) -> bool:
        return not self.on

    async def _ask(self, *asked: Any, **how: Any) -> tuple[int, dict[str, Any]]:
        if not self.on:
            raise UnavailableError("nobody listens")
        return await super()._ask(*asked, **how)


class Merged(Switched):
    """A replica with weights of its own."""

    name = folder = ""
    log_prob = LOG_PROBS[0]

    def _answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path == "/v1/models":
            return 200, {"data": [{"id": self.name, "root": self.folder, "parent": None}]}
        assert body.get("model", self.name) == self.name, "asked for a name that it does not know"
        scored = [None, *({token: {"logprob": self.log_prob}} for token in ("2", "3"))]
        return 200, {"choices": [{"prompt_logprobs": scored}]}


class Box:
    """Two engines, one with adapters and one for merged weights, of which `live` is live and `other` was trained."""

    def __init__(self, home: Path, database: Database, clock: Clock) -> None:
        engine = {"urls": [ADAPTERS], "merged_urls": [MERGED]}
        self.settings = load_settings(home=home, base_model=str(STARTER), engine=engine)
        self.database, self.clock = database, clock
        self.live, self.other = (publish_lora(self.settings, seed=seed) for seed in (1, 2))
        self.base = read_base_model(STARTER)
        self.adapters, self.merged = Switched(ADAPTERS, {}), Merged(MERGED, {})
        self.merged.name, self.merged.folder = self.live, str(merged_folder(self.settings, self.live))
        self.control = self.new_controller()
        probes = [{"token_ids": [1, 2, 3], "log_probs": LOG_PROBS}]
        with writing(database) as session:
            for name in (self.live, self.other):
                made_adapter(session, name, base_model_hash=self.base.hash, manifest={"probes": probes})
        self.control.tick()  # publishes the identity adapter
        with writing(database) as session:
            identity = adapter(session, self.control.identity)
            trial = made_experiment(session, champion=identity.name, challenger=self.live, verdict="SHIP")
            promote(session, trial, live=identity, approval=Approval("olga", "better", trial.evidence_hash or ""))
        self.control.tick()

    def new_controller(self) -> Control:
        control = Control(self.settings, self.database, [self.adapters], [self.merged])
        control.live.base_model = self.base
        return control

    def write(self) -> None:
        """The operator allows it, and the worker has written the weights."""
        with writing(self.database) as session:
            row = allow_merge(session, self.settings, tenant=TENANT, actor="olga", reason="faster")
            move_merge(session, row.id, expected=ASKED, state=WRITTEN)

    def row(self) -> Merge:
        with reading(self.database) as session:
            found = newest_merge(session, alias=ALIAS)
        assert found is not None
        return found

    def roll_back(self) -> None:
        with writing(self.database) as session:
            live = live_adapter(session, alias=ALIAS, base_model_hash=self.base.hash)
            assert live is not None
            target = Variant(self.control.identity)
            roll_back(session, tenant=TENANT, alias=ALIAS, target=target, live=live, actor="olga", reason="bad")

    def answering(self) -> tuple[set[str], str]:
        """The adapters of all users, and the engine that the champion's next request goes to."""
        found = {self.control.live.target(ALIAS, unit=user).adapter for user in USERS}
        return found, self.control.pool.engine_for(self.control.live.standing.champion or "").url


@pytest.fixture
def box(tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> Box:
    return Box(tmp_path, database, Clock(monkeypatch))


@pytest.fixture
def merged(box: Box) -> Box:
    """Merged weights answer."""
    box.write()
    box.control.tick(2)
    return box


def test_merged_weights_that_answer_as_the_adapter_does_take_over(box: Box) -> None:
    assert box.answering() == ({box.live}, ADAPTERS)
    box.write()
    box.control.tick()
    assert box.answering() == ({box.live}, MERGED)
    assert box.row().state == SERVING


def test_weights_that_answer_otherwise_never_come_into_service(box: Box) -> None:
    box.merged.log_prob = -2.0
    box.write()
    box.control.tick()
    assert box.answering() == ({box.live}, ADAPTERS)
    assert box.row().state == FAILED
    assert "off by 1.000 nats" in (box.row().trouble or "")


@pytest.mark.parametrize(("name", "folder"), [("lora-000000000000", ""), ("", "/elsewhere")])
def test_an_engine_with_other_weights_is_not_asked(box: Box, name: str, folder: str) -> None:
    box.merged.name, box.merged.folder = name or box.live, folder or box.merged.folder
    box.write()
    box.control.tick()
    assert box.answering() == ({box.live}, ADAPTERS)
    assert box.row().state == WRITTEN


def test_an_experiment_splits_users_once_adapters_answer_and_merged_weights_do_not(merged: Box) -> None:
    merged.adapters.on = False
    merged.control.tick(2)
    with writing(merged.database) as session:
        made_experiment(session, champion=merged.live, challenger=merged.other)
    merged.control.tick()
    assert merged.answering() == ({merged.live}, MERGED)  # nobody else could answer
    merged.adapters.on, merged.adapters.held = True, {}
    merged.control.tick()
    assert merged.answering() == ({merged.live, merged.other}, ADAPTERS)
    assert (merged.row().state, merged.row().serving_since) == (SERVING, None)  # it may still be speaking
    merged.clock.ahead += DRAIN_SECONDS
    merged.control.tick()
    assert merged.row().state == WRITTEN


def test_merged_again_engines_with_adapters_stand_by_anew(merged: Box) -> None:
    before = merged.row().serving_since
    assert before is not None
    with writing(merged.database) as session:
        trial = made_experiment(session, champion=merged.live, challenger=merged.other).id
    merged.control.tick()
    merged.control.end(trial)
    merged.control.tick(2)
    assert merged.answering() == ({merged.live}, MERGED)
    after = merged.row().serving_since
    assert after is not None
    assert after > before


def test_a_rollback_leaves_merged_weights_at_once(merged: Box) -> None:
    assert merged.control.live.not_ready(merged.control.identity) == []
    merged.roll_back()
    merged.control.in_a_loop(merged.control.live.refresh)  # what the route does; no tick
    assert merged.answering() == ({merged.control.identity}, ADAPTERS)


def test_without_an_engine_for_adapters_a_rollback_is_told_to_wait(merged: Box) -> None:
    merged.adapters.on = False
    merged.control.tick(2)
    assert merged.control.live.not_ready(merged.live) == []
    assert merged.control.live.not_ready(merged.control.identity) == [
        "merged weights answer, and no engine with adapters is up"
    ]


def test_when_merged_weights_die_the_adapter_beside_them_answers(merged: Box) -> None:
    merged.merged.on = False
    merged.control.tick()
    assert merged.answering() == ({merged.live}, ADAPTERS)
    merged.merged.on = True
    merged.control.tick()
    assert merged.answering() == ({merged.live}, MERGED)


def test_a_new_controller_goes_on_where_a_killed_one_was(merged: Box) -> None:
    merged.adapters.on = False
    merged.clock.ahead += LEASE_SECONDS
    merged.control = merged.new_controller()
    merged.control.tick()
    assert merged.answering() == ({merged.live}, MERGED)
    assert merged.row().state == SERVING
    shutil.rmtree(merged.settings.adapters_folder / merged.live)  # nothing of the adapter's is needed to answer
    merged.control.tick()
    assert merged.answering() == ({merged.live}, MERGED)
