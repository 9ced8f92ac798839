"""Erasure: taking the words of a completion out of the records, while what was counted stays.

The row keeps who spoke, when, and how many tokens; scores stay, since an experiment's figures must not change. Words,
candidates, pairs and judgments go, so nothing of it reaches a later dataset version. Dataset versions that are frozen
already are immutable; lineage says which hold it. Later turns of the same conversation, in which the client sent these
words back, are completions of their own.
"""

from __future__ import annotations

from sqlalchemy import delete, update
from sqlmodel import Session, col

from flywheel.audit import record_act
from flywheel.feedback import Feedback
from flywheel.interactions import DELETED, Interaction
from flywheel.pairs import Candidate, PreferencePair


def erase_completion(session: Session, row: Interaction, *, actor: str) -> None:
    """Erase one completion's words everywhere. Doing it twice is as good as once."""
    if row.content == DELETED:
        return
    session.execute(delete(PreferencePair).where(col(PreferencePair.completion_id) == row.id))
    session.execute(delete(Candidate).where(col(Candidate.completion_id) == row.id))
    session.execute(update(Feedback).where(col(Feedback.completion_id) == row.id).values(text=None))
    row.messages, row.prompt, row.passages, row.parameters = [], None, [], {}
    row.answer, row.choices, row.client_metadata, row.error = None, None, {}, None
    row.content = DELETED
    session.add(row)
    record_act(session, tenant=row.tenant, actor=actor, act="delete_completion", subject=row.id, details={})
