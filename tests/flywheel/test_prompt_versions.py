"""Wordings of prompts: what may be kept, what is one and the same, and how one goes live and comes back."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, select

from flywheel.adapters import Adapter
from flywheel.approvals import barred_from_approving
from flywheel.audit import AuditEntry
from flywheel.database import now, reading, writing
from flywheel.errors import ConflictError, EvidenceError, NotFoundError, UserError
from flywheel.experiments import Experiment
from flywheel.lineage import lineage
from flywheel.promotions import (
    Approval,
    Promotion,
    earlier_variants,
    live_adapter,
    live_prompt,
    promote,
    promotions,
    reject,
    roll_back,
)
from flywheel.prompt_versions import SHIPPED_WORDING, PromptVersion, prompt_named, read_wording
from flywheel.settings import PromotionSettings
from flywheel.variants import Variant
from flywheel.who_served import who_served
from tests.made_records import made_adapter, made_experiment, made_interaction, made_prompt


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"passage": "{number}"}, "passage lacks {text}"),
        ({"passage": "{titel}: {text} {number}"}, "{titel} stands for nothing"),
        ({"passage": "{number} {text:>9999999999}"}, "{text:>9999999999} stands for nothing"),
        ({"passage": "{number!r} {text}"}, "{number!r} stands for nothing"),
        ({"passage": "{number.real} {text}"}, "{number.real} stands for nothing"),
        ({"passage": "{} {number} {text}"}, "{} stands for nothing"),
        ({"passage": "{number} {text"}, "its braces do not match"),
        ({"refuse": " \n"}, "refuse is empty"),
        ({"small_talk": "x" * 4001}, "small_talk has 4001 characters"),
        ({"knowledge": "a\0b"}, "U+0000"),
        ({"knowledge": "a\ud800b"}, "U+D800"),
        ({"knowledge": None}, "knowledge: "),
        ({"greeting": "Hello"}, "greeting: "),
    ],
)
def test_a_wording_that_cannot_be_rendered_is_refused_in_words(change: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as raised:
        read_wording(SHIPPED_WORDING.model_dump() | change)
    assert says in str(raised.value)


def test_a_wording_is_its_words_whatever_stands_round_them() -> None:
    read = read_wording({name: f" {part}\r\n" for name, part in SHIPPED_WORDING.model_dump().items()})
    assert read == SHIPPED_WORDING
    one = SHIPPED_WORDING.model_copy(update={"small_talk": "a\nb", "refuse": "c"})
    other = SHIPPED_WORDING.model_copy(update={"small_talk": "a", "refuse": "b\nc"})
    assert one.version != other.version


def test_the_same_words_are_one_row_which_nobody_changes(database: Engine) -> None:
    with writing(database) as session:
        version = made_prompt(session, "Be brief.")
        assert made_prompt(session, "Be brief.", actor="rob") == version
        assert session.get_one(PromptVersion, version).wording.knowledge == "Be brief."
        assert prompt_named(session, version) == version
        assert {prompt_named(session, name) for name in ("shipped", SHIPPED_WORDING.version)} == {None}
        for name in ("nothing", "0" * 12):
            with pytest.raises(NotFoundError, match="flywheel prompts"):
                prompt_named(session, name)
        with pytest.raises(UserError, match="that Flywheel ships"):
            made_prompt(session, SHIPPED_WORDING.knowledge)
        acts = session.exec(select(AuditEntry.actor, AuditEntry.subject).where(AuditEntry.act == "add_prompt"))
        assert acts.all() == [("pia", version)]
    for change in ("UPDATE prompt_version SET note = 'better'", "DELETE FROM prompt_version"):
        with pytest.raises(DBAPIError, match="append-only"), writing(database) as session:
            session.execute(text(change))


def live(session: Session) -> Adapter:
    found = live_adapter(session, alias="flywheel", base_model_hash="base")
    assert found is not None
    return found


def served(session: Session) -> Variant:
    return Variant(live(session).name, live_prompt(session, alias="flywheel"))


def shipped(session: Session, adapter: str, prompt: str | None) -> Promotion:
    """The experiment of this variant against what is live says SHIP, and is approved."""
    now_live = served(session)
    arms = {"champion": now_live.adapter, "champion_prompt": now_live.prompt}
    trial = made_experiment(session, verdict="SHIP", challenger=adapter, challenger_prompt=prompt, **arms)
    return promote(session, trial, live=live(session), approval=yes(trial))


def yes(trial: Experiment) -> Approval:
    return Approval("olga", "better", trial.evidence_hash or "")


def back(session: Session, target: Variant) -> Promotion:
    who = {"actor": "olga", "reason": "complaints"}
    return roll_back(session, tenant="default", alias="flywheel", target=target, live=live(session), **who)


def test_a_prompt_is_promoted_without_a_gate_and_a_rollback_restores_both(database: Engine) -> None:
    with writing(database) as session:
        made_adapter(session, "identity-1", gate=None)
        shorter = made_prompt(session)
        row = shipped(session, "identity-1", shorter)
        assert (row.adapter, row.prompt, row.previous, row.previous_prompt) == (
            "identity-1", shorter, "identity-1", None,
        )  # fmt: skip
        assert "gate is not asked" in (row.evidence or {})["gate_note"]
        assert served(session) == Variant("identity-1", shorter)
        with pytest.raises(ConflictError, match=f"identity-1 with prompt {shorter} is live already"):
            back(session, Variant("identity-1", shorter))
        tuned = shipped(session, "lora-1", None)
        assert earlier_variants(session, alias="flywheel") == [
            Variant("lora-1"), Variant("identity-1", shorter), Variant("identity-1"),
        ]  # fmt: skip
        back(session, Variant(tuned.previous, tuned.previous_prompt))
        assert served(session) == Variant("identity-1", shorter)
        back(session, Variant("lora-1", shorter))  # each was live, though never together
        unknown = made_prompt(session, "Never live.")
        with pytest.raises(UserError, match=f"{unknown} was never live"):
            back(session, Variant("lora-1", unknown))
        served_now = who_served(session, alias="flywheel", at=now())
        assert (served_now["adapter"], served_now["prompt"]) == ("lora-1", shorter)


def test_another_adapter_with_another_prompt_still_needs_its_gate(database: Engine) -> None:
    with writing(database) as session:
        made_adapter(session, "identity-1")
        made_adapter(session, "lora-1", gate={"passed": False})
        with pytest.raises(EvidenceError, match="gate is not green"):
            shipped(session, "lora-1", made_prompt(session))


def test_an_experiment_against_a_prompt_that_is_live_no_longer_promotes_nothing(database: Engine) -> None:
    with writing(database) as session:
        made_adapter(session, "identity-1")
        shorter = made_prompt(session)
        shipped(session, "identity-1", shorter)
        trial = made_experiment(session, verdict="SHIP")  # its champion has the shipped prompt
        with pytest.raises(EvidenceError, match=f"compared with identity-1, but identity-1 with prompt {shorter}"):
            promote(session, trial, live=live(session), approval=yes(trial))
        reject(session, trial, live=live(session), actor="olga", reason="outdated")
        assert served(session) == Variant("identity-1", shorter)
        assert promotions(session, alias="flywheel")[0].previous_prompt == shorter


def test_who_wrote_a_prompt_may_not_approve_it_where_makers_may_not(database: Engine) -> None:
    rules = PromotionSettings(trainer_may_approve=False)
    with writing(database) as session:
        made_adapter(session, "identity-1")
        trial = made_experiment(session, challenger="identity-1", challenger_prompt=made_prompt(session, actor="pia"))
        assert barred_from_approving(session, trial, "olga", rules) == []
        assert "pia wrote prompt" in barred_from_approving(session, trial, "pia", rules)[0]


def test_an_answer_leads_to_its_wording_and_to_what_made_that_live(database: Engine) -> None:
    with writing(database) as session:
        made_adapter(session, "identity-1")
        first = shipped(session, "lora-1", None)
        shorter = made_prompt(session)
        asked = {"adapter": "lora-1", "epoch": first.id}
        answers = [made_interaction(session, prompt_version=version, **asked) for version in (shorter, None, "0" * 12)]
        answers.append(made_interaction(session, prompt_version=SHIPPED_WORDING.version, **asked))
        second = shipped(session, "lora-1", shorter)
    with reading(database) as session:
        tried, plain, older, usual = (lineage(session, row.id, tenant="default") for row in answers)
    assert (tried["prompt"]["version"], tried["prompt"]["wording"]["knowledge"]) == (shorter, "Answer in one line.")
    assert tried["promotion"]["id"] == second.id
    assert (plain["prompt"], older["prompt"], usual["prompt"]["shipped"]) == (None, None, True)
    assert {found["promotion"]["id"] for found in (plain, older, usual)} == {first.id}
