"""The keys that programs on the appliance's own machine make for themselves, beside those of people."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Engine
from sqlmodel import select

from flywheel.database import writing
from flywheel.keys import ApiKey, create_key, create_local_key, first_key, remove_local_key

HOUR = timedelta(hours=1)


def test_a_local_key_does_not_stand_in_for_the_first_admins(database: Engine) -> None:
    with writing(database) as session:
        create_local_key(session, tenant="default", lifetime=HOUR)
        assert first_key(session, tenant="default") is not None
        assert first_key(session, tenant="default") is None


def test_a_new_local_key_sweeps_ended_ones_away_and_no_other(database: Engine) -> None:
    with writing(database) as session:
        create_local_key(session, tenant="default", lifetime=-HOUR)
        create_key(session, tenant="default", name="Mira", scope="chat", actor="test", lifetime=-HOUR)
        another, _ = create_local_key(session, tenant="default", lifetime=HOUR)
        create_local_key(session, tenant="default", lifetime=HOUR)
        session.flush()
        assert sorted(session.exec(select(ApiKey.name)).all()) == ["Mira", "this machine", "this machine"]
        assert session.get(ApiKey, another.id) is not None


def test_only_local_keys_are_removed_without_a_trace(database: Engine) -> None:
    with writing(database) as session:
        mine, _ = create_local_key(session, tenant="default", lifetime=HOUR)
        miras, _ = create_key(session, tenant="default", name="Mira", scope="chat", actor="test")
        for key in (mine, miras):
            remove_local_key(session, key.id)
        assert session.exec(select(ApiKey.name)).all() == ["Mira"]
