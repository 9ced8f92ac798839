"""Rows for tests: each function stores one record with sensible values, and overrides for what a test is about."""

from __future__ import annotations

from typing import Any

from sqlmodel import Session, select

from flywheel.adapters import Adapter
from flywheel.database import new_id, now
from flywheel.dataset_versions import DatasetRow, DatasetVersion
from flywheel.experiment_plan import Plan
from flywheel.experiments import Experiment, open_experiment, record_evidence
from flywheel.feedback import RATING, Feedback, new_feedback
from flywheel.interactions import Interaction
from flywheel.pairs import Candidate, PreferencePair, add_pairs, judge
from flywheel.prompt_versions import SHIPPED_WORDING, add_prompt_version
from flywheel.runs import TrainingRun, claim_run, end_run, queue_run
from flywheel.variants import Variant

TENANT, ALIAS = "default", "flywheel"
GREEN_GATE = {"passed": True, "sentence": "All checks passed.", "checks": []}


def made_interaction(session: Session, **values: Any) -> Interaction:
    """A finished question and answer."""
    question = [{"role": "user", "content": "How do I change my password?"}]
    given: dict[str, Any] = {
        "id": f"chatcmpl-{new_id('x')[2:]}",
        "request_id": "req_1",
        "user": "ann",
        "conversation": "c1",
        "unit": values.get("user", "ann"),
        "alias": ALIAS,
        "messages": question,
        "prompt": [{"role": "system", "content": "Answer."}, *question],
        "answer": "Open the settings.",
        "status": "finished",
        "finish_reason": "stop",
        "asked_at": now(),
    }
    row = Interaction(**(given | values))
    session.add(row)
    session.flush()
    return row


def made_rating(session: Session, interaction: Interaction, value: bool | int, **values: Any) -> Feedback:
    """A user's rating of an answer."""
    given = {"source": "user", "actor": interaction.user, "name": RATING, "text": None}
    row = new_feedback(tenant=interaction.tenant, completion_id=interaction.id, value=value, **(given | values))
    session.add(row)
    session.flush()
    return row


def made_pair(
    session: Session, interaction: Interaction, text: str = "Ask an administrator.", **values: Any
) -> PreferencePair:
    """A waiting pair of the given answer and one candidate, of which `values` are."""
    candidate = Candidate(id=new_id("cand"), completion_id=interaction.id, text=text, created_at=now(), **values)
    [pair] = add_pairs(session, interaction, candidates=[candidate])
    session.flush()
    return pair


def made_adapter(session: Session, name: str, **values: Any) -> Adapter:
    """An adapter's record, without files."""
    given: dict[str, Any] = {
        "content_hash": name,
        "base_model_hash": "base",
        "manifest": {"recipe": {"name": "dpo-sft"}},
        "gate": GREEN_GATE,
        "created_at": now(),
    }
    if not name.startswith("identity"):
        given["run_id"] = ended_run(session, adapter=name).id
    row = Adapter(name=name, **(given | values))
    session.add(row)
    session.flush()
    return row


def ended_run(session: Session, *, adapter: str, dataset: str | None = None) -> TrainingRun:
    """A run that made an adapter."""
    queue_run(session, tenant=TENANT, alias=ALIAS, recipe={}, requested_by="ann")
    run = claim_run(session, worker="w1")
    assert run is not None
    end_run(session, run.id, worker="w1", state="succeeded", adapter=adapter, dataset=dataset)
    return run


def made_dataset(session: Session, pairs: list[PreferencePair], name: str = "ds-000000000001") -> DatasetVersion:
    """A dataset version of decided pairs, all in the training split."""
    row = DatasetVersion(
        name=name,
        content_hash=name,
        folder=f"datasets/{name}",
        train_rows=len(pairs),
        validation_rows=0,
        report={},
        created_at=now(),
    )
    session.add(row)
    session.flush()
    session.add_all(DatasetRow(dataset=name, pair_id=pair.id, split="train") for pair in pairs)
    session.flush()
    return row


def decided_pair(session: Session, interaction: Interaction, *, reviewer: str = "rita") -> PreferencePair:
    """A pair of which `a` was chosen."""
    pair = made_pair(session, interaction)
    judge(session, pair, reviewer=reviewer, verdict="a")
    session.flush()
    session.refresh(pair)
    return pair


def made_prompt(session: Session, knowledge: str = "Answer in one line.", *, actor: str = "pia") -> str:
    """A prompt version that says something else above the passages; returns its name."""
    wording = SHIPPED_WORDING.model_copy(update={"knowledge": knowledge})
    return add_prompt_version(session, wording, tenant=TENANT, note="shorter", actor=actor).version


def unstored_experiment(**values: Any) -> Experiment:
    """An experiment of which only the given fields matter."""
    given: dict[str, Any] = {
        "id": "exp-1",
        "alias": ALIAS,
        "champion": "c",
        "challenger": "d",
        "salt": "s",
        "created_at": now(),
    }
    return Experiment(**(given | values))


def made_experiment(session: Session, *, verdict: str | None = None, **values: Any) -> Experiment:
    """`identity-1` against `lora-1`, running; with a verdict when one is given."""
    for name in ("identity-1", "lora-1"):
        if session.exec(select(Adapter).where(Adapter.name == name)).first() is None:
            made_adapter(session, name)
    given: dict[str, Any] = {
        "tenant": TENANT,
        "alias": ALIAS,
        "champion": "identity-1",
        "challenger": "lora-1",
        "actor": "worker",
    }
    plan = {"planned_effect": 0.3} | {name: values.pop(name) for name in Plan.model_fields if name in values}
    given |= values
    for arm in ("champion", "challenger"):
        given[arm] = Variant(given[arm], given.pop(f"{arm}_prompt", None))
    opened = open_experiment(session, **given, plan=Plan.model_construct(**Plan().model_dump() | plan))
    if verdict is not None:
        record_evidence(session, opened, {"verdict": verdict})
        session.refresh(opened)
    return opened
