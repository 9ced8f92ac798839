from __future__ import annotations

import pytest
from sqlalchemy import Engine

from flywheel.database import reading, writing
from flywheel.dataset_versions import dataset_version, latest_dataset_versions, pair_ids_of
from flywheel.errors import NotFoundError
from flywheel.lineage import lineage
from flywheel.promotions import Approval, promote
from tests.made_records import (
    decided_pair,
    ended_run,
    made_adapter,
    made_dataset,
    made_experiment,
    made_interaction,
    made_rating,
)


def test_from_an_answer_one_call_reaches_run_dataset_pairs_reviewers_and_ratings(database: Engine) -> None:
    with writing(database) as session:
        rated = made_interaction(session, user="bob")
        made_rating(session, rated, False)
        pairs = [decided_pair(session, rated), decided_pair(session, made_interaction(session))]
        dataset = made_dataset(session, pairs)
        identity = made_adapter(session, "identity-1")
        run = ended_run(session, adapter="lora-1", dataset=dataset.name)
        spoke = made_adapter(session, "lora-1", run_id=run.id, parent=identity.name)
        trial = made_experiment(session, verdict="SHIP")
        in_trial = made_interaction(session, adapter="lora-1", experiment_id=trial.id, arm="challenger")
        row = promote(session, trial, live=identity, approval=Approval("olga", "better", trial.evidence_hash or ""))
        after = made_interaction(session, adapter="lora-1", epoch=row.id)
    with reading(database) as session:
        found = lineage(session, after.id, tenant="default", limit=1)
        early = lineage(session, in_trial.id, tenant="default")
    assert found["completion"]["id"] == after.id
    assert (found["adapter"]["name"], found["adapter"]["recipe"]) == (spoke.name, {"name": "dpo-sft"})
    assert (found["run"]["id"], found["dataset"]["name"]) == (run.id, dataset.name)
    assert [parent["name"] for parent in found["parents"]] == ["identity-1"]
    assert (found["promotion"]["id"], found["experiment"]) == (row.id, None)
    assert (found["total"], len(found["pairs"])) == (2, 1)
    [pair] = found["pairs"]
    assert pair["question"] == "How do I change my password?"
    assert {pair["chosen"], pair["rejected"]} == {"Open the settings.", "Ask an administrator."}
    assert pair["chosen"] == pairs[0].a
    assert pair["judgments"] == [{"reviewer": "rita", "source": "person", "verdict": "a", "reason": None}]
    assert [(rating["score"], rating["actor"]) for rating in pair["ratings"]] == [(0.0, "bob")]
    assert (early["experiment"]["id"], early["promotion"]["id"]) == (trial.id, row.id)


def test_an_answer_of_the_identity_adapter_has_no_run_and_no_pairs(database: Engine) -> None:
    with writing(database) as session:
        made_adapter(session, "identity-1")
        answer = made_interaction(session, adapter="identity-1")
        found = lineage(session, answer.id, tenant="default")
    assert found["adapter"]["name"] == "identity-1"
    assert (found["run"], found["dataset"], found["pairs"], found["parents"]) == (None, None, [], [])


def test_an_unknown_or_foreign_completion_is_not_found(database: Engine) -> None:
    with writing(database) as session:
        answer = made_interaction(session, tenant="acme")
        for completion_id in (answer.id, "chatcmpl-0"):
            with pytest.raises(NotFoundError, match="No completion"):
                lineage(session, completion_id, tenant="default")


def test_a_dataset_version_names_its_pairs_per_split_and_belongs_to_a_tenant(database: Engine) -> None:
    with writing(database) as session:
        pairs = [decided_pair(session, made_interaction(session)) for _ in range(3)]
        dataset = made_dataset(session, pairs)
        assert pair_ids_of(session, dataset.name, split="train") == [pair.id for pair in pairs]
        assert pair_ids_of(session, dataset.name, split="validation") == []
        assert [row.name for row in latest_dataset_versions(session, tenant="default")] == [dataset.name]
        with pytest.raises(NotFoundError):
            dataset_version(session, dataset.name, tenant="acme")
