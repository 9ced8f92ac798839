"""When the writer writes: what is put off, what gathers, and when it refuses or asks to be waited for."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from datetime import datetime, timedelta, timezone

import pytest
from sqlalchemy import Engine
from sqlmodel import Session, col, select

from flywheel.errors import UnavailableError
from flywheel.interactions import Interaction
from serving.statements import Write
from serving.turn import ASK
from serving.writer import PUT_OFF_SECONDS, RecordWriter
from tests.serving.made_writes import asked, closed, ids, state


@pytest.mark.parametrize("turns", [0.0, 1.5])
def test_row_that_is_over_before_anybody_waited_for_it_is_written_once_and_whole(
    writer: RecordWriter, database: Engine, turns: float
) -> None:
    async def write() -> None:
        opening = writer.open(asked("a"), hurried=False)
        await asyncio.sleep(turns * PUT_OFF_SECONDS)
        await writer.end(opening, closed("a", "word"))
        await asyncio.sleep(3 * PUT_OFF_SECONDS)

    asyncio.run(write())
    assert state(database, "a") == ("finished", "word")
    assert writer.rows == 1


@pytest.mark.parametrize(("hurried", "turns"), [(True, 0.0), (False, 3.0)])
def test_row_that_is_hurried_or_takes_longer_is_on_disk_as_asked_and_ended_later(
    writer: RecordWriter, database: Engine, hurried: bool, turns: float
) -> None:
    async def write() -> None:
        opening = writer.open(asked("a"), hurried=hurried)
        await asyncio.sleep(turns * PUT_OFF_SECONDS)
        assert opening.future is not None
        await opening.future
        assert state(database, "a") == ("asked", None)
        await writer.end(opening, closed("a", "word"))

    asyncio.run(write())
    assert state(database, "a") == ("finished", "word")


def test_times_read_back_as_they_were_written(writer: RecordWriter, database: Engine) -> None:
    moment = datetime(2026, 3, 4, 5, 6, 7, 80, tzinfo=timezone(timedelta(hours=2)))

    async def write() -> None:
        await writer.submit(Write(ASK, {**asked("a").values, "asked_at": moment}))

    asyncio.run(write())
    with Session(database) as session:
        assert session.get_one(Interaction, "a").asked_at == moment
        assert session.exec(select(Interaction.id).where(col(Interaction.asked_at) <= moment)).all() == ["a"]
        assert session.exec(select(Interaction.id).where(col(Interaction.asked_at) < moment)).all() == []


def test_what_gathers_shares_a_commit_and_a_lonely_row_waits_for_nobody(
    writer: RecordWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.writer.GATHER_SECONDS", 60.0)  # who waits for company here waits for the last one

    async def write() -> None:
        openings = [writer.open(asked(name), hurried=False) for name in "abc"]
        ends = [writer.end(one, closed(name, "word")) for one, name in zip(openings, "abc", strict=True)]
        await asyncio.wait_for(asyncio.gather(*ends), 10)  # nobody else is under way any more
        assert writer.groups == 1
        alone = writer.open(asked("d"), hurried=False)
        await asyncio.wait_for(writer.end(alone, closed("d", "word")), 10)

    asyncio.run(write())


def test_commit_that_hangs_makes_the_writer_refuse_and_recover_alone(
    writer: RecordWriter, database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.writer.STALLED_SECONDS", 0.2)
    execute, gate = writer._execute, threading.Event()
    monkeypatch.setattr(writer, "_execute", lambda *what: (gate.wait(30), execute(*what))[1])

    async def write() -> None:
        stuck = writer.submit(asked("a"))
        await asyncio.sleep(0.4)
        assert not writer.steady
        for refused in (lambda: writer.submit(asked("b")), lambda: writer.open(asked("c"), hurried=False)):
            with pytest.raises(UnavailableError, match="behind"):
                refused()
        gate.set()
        await stuck
        await writer.submit(asked("d"))
        assert writer.steady

    asyncio.run(write())
    assert ids(database) == {"a", "d"}


def test_failed_commit_and_a_disk_without_room_make_rows_awaited(
    writer: RecordWriter, database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def steady_after(write: Write) -> bool:
        with suppress(UnavailableError):
            await writer.submit(write)
        return writer.steady

    assert not asyncio.run(steady_after(Write(ASK, {**asked("a").values, "status": "nonsense"})))
    assert not asyncio.run(steady_after(closed("nobody", "word")))  # it changed nothing, which any disk allows
    assert asyncio.run(steady_after(asked("b")))
    monkeypatch.setattr("serving.disk.SCARCE_BYTES", 1 << 62)
    monkeypatch.setattr("serving.disk.LOOK_SECONDS", 0.0)
    assert writer.steady == (database.dialect.name != "sqlite")  # a server's disk is its own to watch


@pytest.mark.parametrize("hurried", [True, False])
def test_row_that_could_not_be_written_is_written_whole_when_it_ends(
    writer: RecordWriter, database: Engine, monkeypatch: pytest.MonkeyPatch, hurried: bool
) -> None:
    def refuse(*_: object) -> int:
        raise ValueError("not now")

    async def write() -> None:
        with monkeypatch.context() as broken:
            broken.setattr(writer, "_execute", refuse)
            opening = writer.open(asked("a"), hurried=hurried)
            first = opening.future or writer.end(opening, closed("a", "word"))
            with pytest.raises(UnavailableError):
                await first
        assert not writer.steady
        await writer.end(opening, closed("a", "at last"))

    asyncio.run(write())
    assert state(database, "a") == ("finished", "at last")
