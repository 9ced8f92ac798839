"""When the champion may be merged, and which engines ought to run for it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine as Database
from sqlmodel import Session

from flywheel import merges
from flywheel.audit import audit_entries
from flywheel.database import now, writing
from flywheel.errors import ConflictError, NotFoundError, UserError
from flywheel.leases import ADAPTER, take_lease
from flywheel.merges import (
    ASKED,
    FAILED,
    SERVING,
    WRITTEN,
    EnginesWanted,
    allow_merge,
    engines_wanted,
    merge_to_write,
    move_merge,
    newest_merge,
    withdraw_merge,
)
from flywheel.promotions import Approval, live_adapter, promote, roll_back
from flywheel.settings import Settings, load_settings
from flywheel.variants import Variant
from tests.made_records import ALIAS, TENANT, made_adapter, made_experiment

BOTH, ADAPTERS, ALONE = EnginesWanted(True, "lora-1"), EnginesWanted(), EnginesWanted(False, "lora-1")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path)


@pytest.fixture
def promoted(database: Database) -> Database:
    """`lora-1` is live."""
    with writing(database) as session:
        identity = made_adapter(session, "identity-1")
        trial = made_experiment(
            session, champion=identity.name, challenger=made_adapter(session, "lora-1").name, verdict="SHIP"
        )
        promote(session, trial, live=identity, approval=Approval("olga", "better", trial.evidence_hash or ""))
    return database


def allowed(session: Session, settings: Settings) -> str:
    return allow_merge(session, settings, tenant=TENANT, actor="olga", reason="faster").id


def moved(session: Session, settings: Settings, *states: str) -> str:
    """A merge that has come to the last of these states."""
    merge_id, before = allowed(session, settings), ASKED
    for state in states:
        assert move_merge(session, merge_id, expected=before, state=state)
        before = state
    return merge_id


def test_an_operator_allows_it_for_what_is_live(promoted: Database, settings: Settings) -> None:
    with writing(promoted) as session:
        allowed(session, settings)
        found = merge_to_write(session, alias=ALIAS)
        assert found is not None
        assert (found.adapter, found.state, found.applies) == ("lora-1", ASKED, True)
        newest = audit_entries(session, tenant=TENANT, limit=1)[0]
        assert (newest.actor, newest.act, newest.subject) == ("olga", "allow_merge", "lora-1")
        with pytest.raises(ConflictError, match="may be merged already; it is asked"):
            allowed(session, settings)


def test_nothing_can_be_merged_before_a_promotion_or_during_an_experiment(
    database: Database, promoted: Database, settings: Settings
) -> None:
    with writing(promoted) as session:
        made_experiment(session, champion="lora-1", challenger=made_adapter(session, "lora-2").name)
        with pytest.raises(ConflictError, match="promote or reject its challenger first"):
            allowed(session, settings)
    other = settings.model_copy(update={"serving": settings.serving.model_copy(update={"alias": "other"})})
    with writing(database) as session, pytest.raises(ConflictError, match="No trained adapter is live for 'other'"):
        allowed(session, other)


def test_an_act_needs_a_name_a_reason_and_an_address_of_its_own(promoted: Database, settings: Settings) -> None:
    shared = settings.engine.model_copy(update={"merged_urls": settings.engine.urls})
    with writing(promoted) as session:
        with pytest.raises(UserError, match="name and a reason"):
            allow_merge(session, settings, tenant=TENANT, actor="olga", reason=" ")
        with pytest.raises(UserError, match=r"engine\.merged_urls"):
            allowed(session, settings.model_copy(update={"engine": shared}))
        with pytest.raises(NotFoundError, match="Nothing is merged"):
            withdraw_merge(session, alias=ALIAS, actor="olga", reason="slow")


def test_engines_with_adapters_stop_only_when_merged_ones_have_answered_for_long(
    promoted: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writing(promoted) as session:
        merge_id = allowed(session, settings)
        assert engines_wanted(session, settings) == ADAPTERS
        move_merge(session, merge_id, expected=ASKED, state=WRITTEN)
        assert engines_wanted(session, settings) == BOTH
        move_merge(session, merge_id, expected=WRITTEN, state=SERVING)
        assert engines_wanted(session, settings) == BOTH
        later = timedelta(seconds=settings.engine.stand_by_seconds + 1)
        monkeypatch.setattr(merges, "now", lambda: now() + later)
        assert engines_wanted(session, settings) == ALONE
        held_out = settings.serving.model_copy(update={"holdout_share": 0.1})
        assert engines_wanted(session, settings.model_copy(update={"serving": held_out})) == BOTH
        take_lease(session, name=ADAPTER + "identity-1", holder="olga", seconds=60)  # to be rolled back to
        assert engines_wanted(session, settings) == BOTH


@pytest.mark.parametrize("end", ["experiment", "rollback", "withdrawal"])
def test_what_calls_for_adapters_keeps_merged_engines_until_serving_has_moved_everybody(
    promoted: Database, settings: Settings, end: str
) -> None:
    with writing(promoted) as session:
        merge_id = moved(session, settings, WRITTEN, SERVING)
        if end == "experiment":
            made_experiment(session, champion="lora-1", challenger=made_adapter(session, "lora-2").name)
        elif end == "withdrawal":
            withdraw_merge(session, alias=ALIAS, actor="olga", reason="slow")
        else:
            live = live_adapter(session, alias=ALIAS, base_model_hash="base")
            assert live is not None
            target = Variant("identity-1")
            roll_back(session, tenant=TENANT, alias=ALIAS, target=target, live=live, actor="olga", reason="bad")
        assert engines_wanted(session, settings) == BOTH
        move_merge(session, merge_id, expected=SERVING, state=WRITTEN)
        assert engines_wanted(session, settings) == ADAPTERS


def test_a_merge_that_failed_may_be_allowed_again(promoted: Database, settings: Settings) -> None:
    with writing(promoted) as session:
        first = moved(session, settings, WRITTEN, FAILED)
        assert engines_wanted(session, settings) == ADAPTERS
        assert allowed(session, settings) != first


def test_a_withdrawn_merge_that_still_answers_goes_on_when_it_is_allowed_again(
    promoted: Database, settings: Settings
) -> None:
    with writing(promoted) as session:
        first = moved(session, settings, WRITTEN, SERVING)
        withdraw_merge(session, alias=ALIAS, actor="olga", reason="slow")
        assert allowed(session, settings) == first
        row = newest_merge(session, alias=ALIAS)
        assert row is not None
        assert row.withdrawn_at is None


def test_two_processes_never_make_the_same_step(promoted: Database, settings: Settings) -> None:
    with writing(promoted) as session:
        merge_id = moved(session, settings, WRITTEN)
        assert not move_merge(session, merge_id, expected=ASKED, state=WRITTEN)
