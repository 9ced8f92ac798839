"""Writes for the record's writer, and what they left in the database."""

from __future__ import annotations

from sqlalchemy import Engine
from sqlmodel import Session, col, select

from flywheel.database import now
from flywheel.interactions import Interaction
from serving.statements import Write
from serving.turn import ASK, CLOSE, CLOSING


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
