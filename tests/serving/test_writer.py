"""The writer on real databases: groups, order, and a faulty row among good ones."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone

import pytest
from sqlalchemy import Engine
from sqlmodel import Session, col, select

from flywheel.database import new_id, now
from flywheel.errors import UnavailableError
from flywheel.feedback import Feedback
from flywheel.interactions import Interaction, close_interrupted
from serving.statements import Write
from serving.turn import ASK, CLOSE, CLOSING
from serving.writer import PUT_OFF_SECONDS, RecordWriter


def asked(completion_id: str) -> Write:
    return Write(
        ASK,
        {
            "id": completion_id,
            "tenant": "default",
            "request_id": "r",
            "conversation": "c",
            "unit": "u",
            "alias": "flywheel",
            "messages": [{"role": "user", "content": "Hi"}],
            "passages": [],
            "parameters": {},
            "client_metadata": {},
            "content": "kept",
            "status": "asked",
            "asked_at": now(),
        },
        opens=True,
    )


def closed(completion_id: str, answer: str) -> Write:
    said = {"answer": answer, "status": "finished", "passages": [], "finished_at": now()}
    return Write(CLOSE, {"completion_id": completion_id, **dict.fromkeys(CLOSING), **said})


def state(database: Engine, completion_id: str) -> tuple[str, str | None] | None:
    with Session(database) as session:
        row = session.get(Interaction, completion_id)
        return (row.status, row.answer) if row is not None else None


def ids(database: Engine) -> set[str]:
    with Session(database) as session:
        return set(session.exec(select(col(Interaction.id))).all())


@pytest.fixture
def writer(database: Engine) -> Iterator[RecordWriter]:
    found = RecordWriter(database, limit=1000)
    found.start()
    yield found
    found.close()


def test_rows_are_there_when_the_await_returns_and_share_commits(writer: RecordWriter, database: Engine) -> None:
    async def write() -> None:
        await asyncio.gather(*(writer.submit(asked(f"chatcmpl-{number:03d}")) for number in range(200)))
        assert len(ids(database)) == 200

    asyncio.run(write())
    assert writer.rows == 200
    assert writer.groups < 50


def test_faulty_row_does_not_take_its_neighbours_with_it(writer: RecordWriter, database: Engine) -> None:
    async def write() -> list[object]:
        writes = [asked("a"), asked("a"), asked("b"), Write(ASK, {**asked("c").values, "status": "nonsense"})]
        return await asyncio.gather(*(writer.submit(one) for one in writes), return_exceptions=True)

    outcome = asyncio.run(write())
    assert ids(database) == {"a", "b"}
    assert [type(one) for one in outcome] == [type(None), UnavailableError, type(None), UnavailableError]


def test_writes_of_one_submission_stand_or_fall_together(writer: RecordWriter, database: Engine) -> None:
    async def write() -> None:
        with pytest.raises(UnavailableError):
            await writer.submit(asked("a"), Write(ASK, {**asked("b").values, "status": "nonsense"}))

    asyncio.run(write())
    assert ids(database) == set()


def test_full_queue_refuses_newcomers_and_still_takes_what_closes_a_row(database: Engine) -> None:
    writer = RecordWriter(database, limit=2)
    writer._thread.is_alive = lambda: True  # type: ignore[method-assign]  # not started: nothing is taken away

    async def fill() -> None:
        writer.submit(asked("a"))
        writer.submit(asked("b"))
        with pytest.raises(UnavailableError):
            writer.submit(asked("c"))
        writer.submit(asked("d"), closing=True)

    asyncio.run(fill())
    assert writer.waiting == 3


def test_closing_writes_what_still_waits(database: Engine) -> None:
    writer = RecordWriter(database, limit=1000)
    writer.start()

    async def write() -> None:
        for number in range(50):
            writer.submit(asked(f"chatcmpl-{number:03d}"))

    asyncio.run(write())
    writer.close()
    assert len(ids(database)) == 50


def test_rows_left_open_by_a_dead_process_are_closed_as_interrupted(writer: RecordWriter, database: Engine) -> None:
    async def write() -> None:
        await writer.submit(asked("a"))

    asyncio.run(write())
    with Session(database) as session:
        assert close_interrupted(session) == 1
        session.commit()
        row = session.get_one(Interaction, "a")
    assert (row.status, bool(row.finished_at)) == ("interrupted", True)


def test_feedback_may_follow_its_interaction_in_the_same_group(writer: RecordWriter, database: Engine) -> None:
    from serving.routes.feedback import SAY

    async def write() -> None:
        row = Feedback(id=new_id("fb"), completion_id="a", name="comment", text="x", created_at=now())
        await asyncio.gather(writer.submit(asked("a")), writer.submit(Write(SAY, row.model_dump())))

    asyncio.run(write())
    with Session(database) as session:
        assert session.exec(select(Feedback)).one().completion_id == "a"


def test_row_is_closed_in_the_commit_that_opens_it_and_only_once(writer: RecordWriter, database: Engine) -> None:
    def close(answer: str) -> Write:
        return closed("a", answer)

    async def write() -> None:
        await asyncio.gather(writer.submit(close("too early")), writer.submit(asked("a"), close("first")))
        await writer.submit(close("second"))

    asyncio.run(write())
    with Session(database) as session:
        row = session.get_one(Interaction, "a")
        assert row.status == "finished"
        assert row.answer in ("first", "too early")  # whether the first two shared a commit is chance


def test_defect_fails_the_write_that_has_it_and_not_the_writer(writer: RecordWriter, database: Engine) -> None:
    async def write() -> None:
        incomplete = dict(asked("a").values)
        del incomplete["content"]  # a column whose default nobody would compute
        with pytest.raises(UnavailableError, match="a defect"):
            await writer.submit(Write(ASK, incomplete))
        await writer.submit(asked("b"))
        assert ids(database) == {"b"}

    asyncio.run(write())


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


def test_row_that_takes_longer_is_on_disk_as_asked_and_ended_later(writer: RecordWriter, database: Engine) -> None:
    async def write() -> None:
        opening = writer.open(asked("a"), hurried=False)
        await asyncio.sleep(3 * PUT_OFF_SECONDS)
        assert opening.future is not None
        await opening.future
        assert state(database, "a") == ("asked", None)
        await writer.end(opening, closed("a", "word"))

    asyncio.run(write())
    assert state(database, "a") == ("finished", "word")


def test_hurried_row_is_on_disk_when_its_future_is_done(writer: RecordWriter, database: Engine) -> None:
    async def write() -> None:
        opening = writer.open(asked("a"), hurried=True)
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
