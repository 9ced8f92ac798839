"""Rows on disk whose ends could not be written: they are ended once the database takes writes again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.pool import PoolProxiedConnection
from sqlmodel import Session, select

from flywheel.database import new_id, now
from flywheel.errors import UnavailableError
from flywheel.feedback import Feedback
from flywheel.pairs import Candidate
from serving.routes.feedback import SAY
from serving.statements import Write
from serving.turn import CLOSE, OFFER
from serving.writer import RecordWriter
from tests.conftest import wait_until
from tests.serving.made_writes import asked, closed, state


class Trouble:
    """A database that takes nothing, or again everything, as its driver would say it."""

    def __init__(self, writer: RecordWriter) -> None:
        self.writer, self._execute = writer, writer._execute
        self._error: Exception = writer.database.dialect.loaded_dbapi.OperationalError("the disk is full")
        self.there = False
        self.refused: list[list[Write]] = []
        writer._execute = self.execute  # type: ignore[method-assign]

    def execute(self, cursor: Any, writes: list[Write]) -> int:
        if self.there:
            self.refused.append(writes)
            raise self._error
        return self._execute(cursor, writes)

    def end(self, **ends: tuple[tuple[Write, ...], ...]) -> None:
        """Open these rows, then try to end them while there is trouble, each so often."""

        async def write() -> None:
            openings = {name: self.writer.open(asked(name), hurried=True) for name in ends}
            await asyncio.gather(*(opening.future for opening in openings.values() if opening.future))
            self.there = True
            for name, tries in ends.items():
                for place, writes in enumerate(tries, 1):
                    with pytest.raises(UnavailableError):
                        await self.writer.end(openings[name], *writes, final=place == len(tries))

        asyncio.run(write())


@pytest.fixture
def trouble(writer: RecordWriter, monkeypatch: pytest.MonkeyPatch) -> Trouble:
    monkeypatch.setattr("serving.unended.QUIET_SECONDS", 0.05)
    return Trouble(writer)


def other_choice(name: str) -> Write:
    text = {"text": "words", "parameters": {}, "choice": 1, "adapter": None, "prompt_version": None}
    row = {"id": new_id("cand"), "tenant": "default", "completion_id": name, "created_at": now()}
    return Write(OFFER, {**row, **text})


def failed(name: str) -> Write:
    return Write(CLOSE, {**closed(name, "some").values, "status": "failed"})


def test_row_is_ended_with_the_last_word_on_it_although_nobody_comes_any_more(
    trouble: Trouble, database: Engine
) -> None:
    trouble.end(a=((closed("a", "all"), other_choice("a")), (failed("a"),)))
    rating = Feedback(id=new_id("fb"), completion_id="a", name="comment", text="x", created_at=now())
    with pytest.raises(UnavailableError):  # about the same row, and refused: whoever sent it was told so
        asyncio.run(submit(trouble.writer, Write(SAY, rating.model_dump())))
    assert state(database, "a") == ("asked", None)
    trouble.there = False
    wait_until(lambda: state(database, "a") == ("failed", "some"), seconds=5)
    with Session(database) as session:
        assert not session.exec(select(Candidate)).all()
        assert not session.exec(select(Feedback)).all()


def test_while_the_trouble_goes_on_one_row_asks_for_all(trouble: Trouble, database: Engine) -> None:
    trouble.end(**{name: ((failed(name),),) for name in "abc"})
    trouble.refused.clear()
    wait_until(lambda: len(trouble.refused) >= 3, seconds=5)
    assert {len(writes) for writes in trouble.refused} == {1}
    trouble.there = False
    wait_until(lambda: all(state(database, name) == ("failed", "some") for name in "abc"), seconds=5)


def test_what_is_at_fault_itself_is_not_tried_again(trouble: Trouble, database: Engine) -> None:
    nonsense = Write(CLOSE, {**failed("a").values, "status": "nonsense"})
    trouble.end(a=((nonsense,),), b=((failed("b"),),))
    trouble.there = False
    wait_until(lambda: state(database, "b") == ("failed", "some"), seconds=5)
    wait_until(lambda: trouble.writer._unended.wait is None, seconds=5)
    assert state(database, "a") == ("asked", None)


def test_row_that_is_not_on_disk_is_not_remembered(trouble: Trouble) -> None:
    async def write() -> None:
        opening = trouble.writer.open(asked("a"), hurried=False)
        with pytest.raises(UnavailableError):
            await trouble.writer.end(opening, failed("a"))

    trouble.there = True
    asyncio.run(write())
    assert trouble.writer._unended.wait is None


def test_what_is_not_the_last_word_is_not_tried_again(trouble: Trouble) -> None:
    async def write() -> None:
        opening = trouble.writer.open(asked("a"), hurried=True)
        assert opening.future is not None
        await opening.future
        trouble.there = True
        for final in (False, True):
            with pytest.raises(UnavailableError):
                await trouble.writer.end(opening, closed("a", "all"), other_choice("a"), final=final)
            assert (trouble.writer._unended.wait is not None) == final

    asyncio.run(write())


def test_in_trouble_a_group_is_tried_once_and_one_of_it_alone(trouble: Trouble) -> None:
    async def write() -> None:
        opening = trouble.writer.open(asked("a"), hurried=True)
        assert opening.future is not None
        await opening.future
        trouble.there = True
        told = [trouble.writer.submit(asked(name)) for name in "bcdefg"]
        assert all(isinstance(error, UnavailableError) for error in await asyncio.gather(*told, return_exceptions=True))
        trouble.there = False
        await trouble.writer.end(opening, failed("a"))

    asyncio.run(write())
    assert [len(writes) for writes in trouble.refused] == [6, 1]


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_row_whose_commit_was_not_acknowledged_is_ended_where_it_stands(
    writer: RecordWriter, database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks when the commit is done and before the server says so: others are told as lost."""
    keep, broken = writer._keep, database.dialect.loaded_dbapi.OperationalError("the connection is lost")

    def lose(_connection: PoolProxiedConnection) -> None:
        monkeypatch.setattr(writer, "_keep", keep)
        raise broken

    async def write() -> None:
        monkeypatch.setattr(writer, "_keep", lose)
        openings = [writer.open(asked(name), hurried=True) for name in "ab"]
        told = await asyncio.gather(*(one.future for one in openings if one.future), return_exceptions=True)
        assert all(isinstance(error, UnavailableError) for error in told)
        await asyncio.gather(*(writer.end(one, failed(one.row)) for one in openings))

    asyncio.run(write())
    assert [state(database, name) for name in "ab"] == [("failed", "some")] * 2


def test_no_more_are_remembered_than_may_wait(trouble: Trouble, database: Engine) -> None:
    trouble.writer._unended._limit = 2
    trouble.end(**{name: ((failed(name),), (failed(name),)) for name in "abc"})
    trouble.there = False
    wait_until(lambda: all(state(database, name) == ("failed", "some") for name in "ab"), seconds=5)
    assert state(database, "c") == ("asked", None)


def test_writer_that_ends_tries_once_more(trouble: Trouble, database: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.unended.QUIET_SECONDS", 600)
    trouble.end(a=((failed("a"),),))
    trouble.there = False
    trouble.writer.close()
    assert state(database, "a") == ("failed", "some")


async def submit(writer: RecordWriter, write: Write) -> None:
    await writer.submit(write)
