"""The writer on real databases: groups, order, and a faulty row among good ones."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import Engine
from sqlmodel import Session, select

from flywheel.database import new_id, now
from flywheel.errors import UnavailableError
from flywheel.feedback import Feedback
from flywheel.interactions import Interaction, close_interrupted
from serving.statements import Write
from serving.turn import ASK
from serving.writer import RecordWriter
from tests.serving.made_writes import asked, closed, ids


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
        opening = writer.open(asked("a"), hurried=True)
        writer.submit(asked("b"))
        with pytest.raises(UnavailableError):
            writer.submit(asked("c"))
        writer.end(opening, closed("a", "word"))

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


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 11, 28, 9, 30, 5, 120, tzinfo=UTC),
        datetime(2026, 11, 28, 9, 30, 5, tzinfo=UTC),
        datetime(2026, 11, 28, 0, 30, 5, 999999, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    ],
)
def test_a_moment_is_written_as_any_other_statement_would(
    writer: RecordWriter, database: Engine, moment: datetime
) -> None:
    async def run() -> None:
        write = asked("a")
        await writer.submit(Write(ASK, {**write.values, "asked_at": moment}, opens=True))

    asyncio.run(run())
    with Session(database) as session:
        assert session.get_one(Interaction, "a").asked_at == moment
        assert session.exec(select(Interaction.id).where(Interaction.asked_at == moment)).all() == ["a"]
