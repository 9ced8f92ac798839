from __future__ import annotations

import random

import pytest
from sqlalchemy import Engine, text
from sqlmodel import Session, col, select

from flywheel.audit import AuditEntry, audit_entries, audit_head, entry_hash, first_broken_position, record_act
from flywheel.database import reading, writing
from flywheel.errors import UserError

ENTRIES = 12


@pytest.fixture
def chain(database: Engine) -> Engine:
    """A chain of entries whose table lets itself be rewritten, as somebody with the file in hand could."""
    with writing(database) as session:
        for number in range(ENTRIES):
            details = {"number": number, "text": "ü–😀", "share": 0.1, "nested": {"b": [1, None], "a": True}}
            record_act(session, tenant="default", actor="ann", act="judge", subject=f"pair-{number}", details=details)
        drop_guards(session, database.dialect.name)
    return database


def drop_guards(session: Session, dialect: str) -> None:
    if dialect == "postgresql":
        session.execute(text("DROP TRIGGER audit_entry_append_only ON audit_entry"))
    else:
        session.execute(text("DROP TRIGGER audit_entry_no_update"))
        session.execute(text("DROP TRIGGER audit_entry_no_delete"))


def broken(database: Engine, *, head: str | None = None) -> int | None:
    with reading(database) as session:
        return first_broken_position(session, head=head)


def test_an_untouched_chain_is_whole_after_a_round_trip(chain: Engine) -> None:
    assert broken(chain) is None
    with reading(chain) as session:
        head = audit_head(session)
        assert head is not None
        assert head.position == ENTRIES
        assert first_broken_position(session, head=head.hash) is None


def test_an_edit_of_any_field_shows_at_its_position(chain: Engine) -> None:
    changes = {"actor": "'bob'", "act": "'promote'", "subject": "'pair-x'", "details": "'{}'", "tenant": "'acme'"}
    for column, value in changes.items():
        position = random.Random(column).randint(1, ENTRIES)
        with writing(chain) as session:
            kept = session.execute(text(f"SELECT {column} FROM audit_entry WHERE position = {position}")).scalar_one()
            session.execute(text(f"UPDATE audit_entry SET {column} = {value} WHERE position = {position}"))
        assert broken(chain) == position, column
        with writing(chain) as session:
            entry = session.get_one(AuditEntry, position)
            setattr(entry, column, kept if isinstance(kept, str) and column != "details" else details_of(position))
            session.add(entry)
        assert broken(chain) is None, column


def details_of(position: int) -> dict[str, object]:
    return {"number": position - 1, "text": "ü–😀", "share": 0.1, "nested": {"b": [1, None], "a": True}}


@pytest.mark.parametrize("column", ["created_at", "previous_hash", "hash"])
def test_an_edit_of_time_or_hash_shows_at_its_position(chain: Engine, column: str) -> None:
    value = "'2001-01-01 00:00:00+00:00'" if column == "created_at" else "'" + "f" * 64 + "'"
    with writing(chain) as session:
        session.execute(text(f"UPDATE audit_entry SET {column} = {value} WHERE position = 6".replace(":", "\\:")))
    assert broken(chain) == 6


def test_an_edit_with_a_fresh_hash_shows_at_the_next_position(chain: Engine) -> None:
    with writing(chain) as session:
        entry = session.get_one(AuditEntry, 5)
        entry.actor = "mallory"
        entry.hash = entry_hash(entry)
        session.add(entry)
    assert broken(chain) == 6


def test_a_deleted_entry_shows_at_its_position(chain: Engine) -> None:
    with writing(chain) as session:
        session.execute(text("DELETE FROM audit_entry WHERE position = 4"))
    assert broken(chain) == 4


def test_a_deleted_first_entry_shows_at_once(chain: Engine) -> None:
    with writing(chain) as session:
        session.execute(text("DELETE FROM audit_entry WHERE position = 1"))
    assert broken(chain) == 1


def test_a_deleted_entry_shows_also_when_the_later_ones_close_the_gap(chain: Engine) -> None:
    with writing(chain) as session:
        session.execute(text("DELETE FROM audit_entry WHERE position = 4"))
        for position in range(5, ENTRIES + 1):
            session.execute(text(f"UPDATE audit_entry SET position = {position - 1} WHERE position = {position}"))
    assert broken(chain) == 4


def test_two_exchanged_entries_show_at_the_first(chain: Engine) -> None:
    with writing(chain) as session:
        for old, new in ((3, -1), (7, 3), (-1, 7)):
            session.execute(text(f"UPDATE audit_entry SET position = {new} WHERE position = {old}"))
    assert broken(chain) == 3


def test_a_cut_off_end_shows_only_against_a_head_kept_elsewhere(chain: Engine) -> None:
    with reading(chain) as session:
        head = audit_head(session)
        assert head is not None
    with writing(chain) as session:
        session.execute(text("DELETE FROM audit_entry WHERE position > 9"))
    assert broken(chain) is None
    assert broken(chain, head=head.hash) == 10


def test_a_cut_off_end_with_others_in_its_place_shows_against_the_head(chain: Engine) -> None:
    with reading(chain) as session:
        head = audit_head(session)
        assert head is not None
    with writing(chain) as session:
        session.execute(text("DELETE FROM audit_entry WHERE position > 9"))
        for _ in range(5):
            record_act(session, tenant="default", actor="mallory", act="judge", subject="pair-x")
    assert broken(chain) is None
    assert broken(chain, head=f"{head.position}:{head.hash}") == head.position
    assert broken(chain, head=head.hash) == 15  # who kept no position learns that it is gone, not where


def test_an_emptied_audit_shows_against_a_head(chain: Engine) -> None:
    with reading(chain) as session:
        head = audit_head(session)
        assert head is not None
    with writing(chain) as session:
        session.execute(text("DELETE FROM audit_entry"))
    assert broken(chain, head=f"{head.position}:{head.hash}") == 1


def test_an_older_head_fits_a_chain_that_has_grown(chain: Engine) -> None:
    with reading(chain) as session:
        older = session.get_one(AuditEntry, 7)
    assert broken(chain, head=f"7:{older.hash}") is None
    assert broken(chain, head=f"8:{older.hash}") == 8


@pytest.mark.parametrize("head", ["", "abc", "12:", "x:" + "0" * 64])
def test_what_is_no_head_is_no_broken_chain(chain: Engine, head: str) -> None:
    with pytest.raises(UserError, match="audit verify"):
        broken(chain, head=head)


def test_pages_run_from_the_newest_to_the_oldest(chain: Engine) -> None:
    with reading(chain) as session:
        first = audit_entries(session, tenant="default", limit=5)
        second = audit_entries(session, tenant="default", limit=5, before=first[-1].position)
        positions = session.exec(select(AuditEntry.position).order_by(col(AuditEntry.position).desc())).all()
    assert [entry.position for entry in first + second] == list(positions[:10])


def test_an_act_that_is_rolled_back_leaves_no_entry_and_no_gap(database: Engine) -> None:
    with pytest.raises(RuntimeError), writing(database) as session:
        record_act(session, tenant="default", actor="ann", act="judge", subject="pair-1")
        raise RuntimeError
    with writing(database) as session:
        assert record_act(session, tenant="default", actor="ann", act="judge", subject="pair-1").position == 1
