"""Candidate, PreferencePair and Judgment: from a rated answer to something a model can learn from.

A candidate is another answer to the same prompt. A pair shows two answers, `a` and `b`, in an order that tells
nothing. Each reviewer (a person or a rule, said so in `source`) gives one judgment per pair. The first judgment that
names a winner decides the pair; later ones are kept, for agreement between reviewers.

    waiting ─→ decided (chosen = a | b) ─→ used by dataset versions
            └→ dropped (tie, neither, or unusable)
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import CheckConstraint, Index, Text, UniqueConstraint, func, or_, update
from sqlmodel import Field, Session, SQLModel, col, select

from flywheel.audit import record_act
from flywheel.database import JsonOf, UtcTime, new_id, now
from flywheel.errors import ConflictError, NotFoundError, UserError
from flywheel.feedback import RATING, Feedback
from flywheel.interactions import Interaction
from flywheel.messages import Message

VERDICTS = ("a", "b", "tie", "neither")
LEASE_SECONDS, PICKED = 300, "picked among the choices of one completion"


class Candidate(SQLModel, table=True):
    __tablename__ = "candidate"

    id: str = Field(primary_key=True)
    tenant: str = "default"
    completion_id: str = Field(foreign_key="interaction.id", ondelete="CASCADE", index=True)
    adapter: str | None = None
    prompt_version: str | None = None
    choice: int | None = None
    """Which choice of the completion this is, for n > 1; null: it was asked for later."""
    text: str = Field(sa_type=Text)
    parameters: dict[str, Any] = Field(default_factory=dict, sa_type=JsonOf(dict[str, Any]))
    created_at: datetime = Field(sa_type=UtcTime)


class PreferencePair(SQLModel, table=True):
    __tablename__ = "preference_pair"
    __table_args__ = (
        CheckConstraint("state IN ('waiting', 'decided', 'dropped')", name="state"),
        CheckConstraint("(state = 'decided') = (chosen IS NOT NULL)", name="decided_has_chosen"),
        CheckConstraint("chosen IS NULL OR chosen IN ('a', 'b')", name="chosen"),
        Index("ix_preference_pair_queue", "tenant", "state", "id"),
    )

    id: str = Field(primary_key=True)
    tenant: str = "default"
    completion_id: str = Field(foreign_key="interaction.id", ondelete="CASCADE", index=True)
    prompt: list[Message] = Field(sa_type=JsonOf(list[Message]))
    """What the engine was asked, passages included: what the adapter is trained on."""
    a: str = Field(sa_type=Text)
    b: str = Field(sa_type=Text)
    a_candidate: str | None = Field(default=None, foreign_key="candidate.id", ondelete="CASCADE")
    """Null: `a` is the answer that was given."""
    b_candidate: str | None = Field(default=None, foreign_key="candidate.id", ondelete="CASCADE")
    state: str = "waiting"
    chosen: str | None = None
    leased_by: str | None = None
    leased_until: datetime | None = Field(default=None, sa_type=UtcTime)
    created_at: datetime = Field(sa_type=UtcTime)
    decided_at: datetime | None = Field(default=None, sa_type=UtcTime)


class Judgment(SQLModel, table=True):
    __tablename__ = "judgment"
    __table_args__ = (
        UniqueConstraint("pair_id", "reviewer", name="one_judgment_per_reviewer"),
        CheckConstraint("verdict IN ('a', 'b', 'tie', 'neither')", name="verdict"),
        CheckConstraint("source IN ('person', 'rule')", name="source"),
    )

    id: str = Field(primary_key=True)
    pair_id: str = Field(foreign_key="preference_pair.id", ondelete="CASCADE", index=True)
    reviewer: str
    source: str = "person"
    verdict: str
    reason: str | None = Field(default=None, sa_type=Text)
    created_at: datetime = Field(sa_type=UtcTime)


def rated_answers(session: Session, *, tenant: str, below: float | None, limit: int) -> list[Interaction]:
    """Finished interactions without candidates yet, newest first, whose newest rating is under `below` (0 to 1).

    `below=None` takes every rated one.
    """
    given = (Feedback.name == RATING, Feedback.choice == 0)  # the answer that pairs are made with
    newest = select(func.max(col(Feedback.id))).where(*given).group_by(col(Feedback.completion_id))
    rated = select(Feedback.completion_id).where(col(Feedback.id).in_(newest))
    if below is not None:
        rated = rated.where(col(Feedback.score) < below)
    query = select(Interaction).where(
        Interaction.tenant == tenant,
        Interaction.status == "finished",
        col(Interaction.prompt).is_not(None),
        col(Interaction.id).in_(rated),
        col(Interaction.id).not_in(select(Candidate.completion_id).where(col(Candidate.choice).is_(None))),
    )
    return list(session.exec(query.order_by(col(Interaction.id).desc()).limit(limit)))


def add_pairs(session: Session, interaction: Interaction, *, candidates: Sequence[Candidate]) -> list[PreferencePair]:
    """Store the candidates, and pair the given answer with each candidate whose text is different.

    Which of the two is shown as `a` is drawn from the pair's id, so that position tells nothing about origin.
    """
    texts: dict[str, str | None] = {(interaction.answer or "").strip(): None}
    for candidate in candidates:
        session.add(candidate)
        texts.setdefault(candidate.text.strip(), candidate.id)
    session.flush()
    answers = [(text, origin) for text, origin in texts.items() if text]
    pairs = [_blind_pair(interaction, answers[0], other) for other in answers[1:]]
    session.add_all(pairs)
    return pairs


def add_picked(session: Session, interaction: Interaction, *, choice: int, reviewer: str) -> list[PreferencePair]:
    """Pairs of the choice that somebody picked with every other choice of the same completion, decided at once.

    Picking again drops what this person picked before; the judgments stay. Raises UserError when the completion has no
    such choice, or no other.
    """
    offered = list(session.exec(select(Candidate).where(Candidate.completion_id == interaction.id)))
    answers: dict[int, tuple[str, str | None]] = {0: (interaction.answer, None)} if interaction.answer else {}
    answers |= {row.choice: (row.text, row.id) for row in offered if row.choice is not None}
    if choice not in answers or len(answers) < 2:
        raise UserError(f"Choice {choice} cannot be picked: completion {interaction.id} has {len(answers)} with words.")
    _drop_picked(session, interaction, reviewer=reviewer)
    pairs = []
    for index, other in answers.items():
        if index != choice and other[0].strip() != answers[choice][0].strip():
            pair = _blind_pair(interaction, answers[choice], other)
            session.add(pair)
            session.flush()
            judge(session, pair, reviewer=reviewer, verdict="a" if pair.a == answers[choice][0] else "b", reason=PICKED)
            pairs.append(pair)
    return pairs


def add_corrected(session: Session, interaction: Interaction, *, choice: int, text: str) -> PreferencePair | None:
    """A user's correction as a candidate, to be judged blind beside the choice it corrects.

    Anybody may write a correction, so it is a reviewer who decides whether it teaches. None without other words.
    """
    offered = select(Candidate).where(Candidate.completion_id == interaction.id, Candidate.choice == choice)
    other = session.exec(offered).first() if choice else None
    words, origin = (other.text, other.id) if other else (None if choice else interaction.answer, None)
    if not words or interaction.status != "finished" or words.strip() == text.strip():
        return None
    better = Candidate(
        id=new_id("cand"), tenant=interaction.tenant, completion_id=interaction.id, text=text, created_at=now()
    )
    session.add(better)
    session.flush()
    pair = _blind_pair(interaction, (words, origin), (better.text, better.id))
    session.add(pair)
    return pair


def _drop_picked(session: Session, interaction: Interaction, *, reviewer: str) -> None:
    picked = select(Judgment.pair_id).where(Judgment.reviewer == reviewer, Judgment.reason == PICKED)
    session.execute(
        update(PreferencePair)
        .where(col(PreferencePair.completion_id) == interaction.id, col(PreferencePair.id).in_(picked))
        .values(state="dropped", chosen=None)
    )


def _blind_pair(
    interaction: Interaction, first: tuple[str, str | None], second: tuple[str, str | None]
) -> PreferencePair:
    pair_id = new_id("pair")
    if random.Random(pair_id).random() < 0.5:
        first, second = second, first
    return PreferencePair(
        id=pair_id,
        tenant=interaction.tenant,
        completion_id=interaction.id,
        prompt=interaction.prompt or interaction.messages,
        a=first[0],
        a_candidate=first[1],
        b=second[0],
        b_candidate=second[1],
        created_at=now(),
    )


def preference_pair(session: Session, pair_id: str, *, tenant: str) -> PreferencePair:
    """One pair. Raises NotFoundError, also when it belongs to another tenant."""
    pair = session.get(PreferencePair, pair_id)
    if pair is None or pair.tenant != tenant:
        raise NotFoundError(f"No preference pair {pair_id!r} is known here.")
    return pair


def lease_next(session: Session, *, tenant: str, reviewer: str) -> PreferencePair | None:
    """The next pair for this reviewer, held for them for five minutes; the same one again if they already hold one."""
    judged = select(Judgment.pair_id).where(Judgment.reviewer == reviewer)
    free = or_(
        col(PreferencePair.leased_until).is_(None),
        col(PreferencePair.leased_until) < now(),
        col(PreferencePair.leased_by) == reviewer,
    )
    query = (
        select(PreferencePair)
        .where(
            PreferencePair.tenant == tenant,
            PreferencePair.state == "waiting",
            free,
            col(PreferencePair.id).not_in(judged),
        )
        .order_by((col(PreferencePair.leased_by) == reviewer).desc().nulls_last(), col(PreferencePair.id))
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    pair = session.exec(query).first()
    if pair is not None:
        pair.leased_by, pair.leased_until = reviewer, now() + timedelta(seconds=LEASE_SECONDS)
        session.add(pair)
    return pair


def judge(
    session: Session,
    pair: PreferencePair,
    *,
    reviewer: str,
    verdict: str,
    source: str = "person",
    reason: str | None = None,
) -> Judgment:
    """Record one reviewer's verdict and decide the pair by it. Sending the same verdict again changes nothing."""
    session.refresh(pair, with_for_update=True)  # two sendings of one verdict take turns
    if verdict not in VERDICTS:
        raise UserError(f"verdict is one of {', '.join(VERDICTS)}, not {verdict!r}.")
    if source not in ("person", "rule"):
        raise UserError(f"source is person or rule, not {source!r}.")
    if not reviewer.strip():
        raise UserError("A judgment carries the reviewer's name: it is empty.")
    earlier = session.exec(select(Judgment).where(Judgment.pair_id == pair.id, Judgment.reviewer == reviewer)).first()
    if earlier is not None:
        if earlier.verdict == verdict:
            return earlier
        raise ConflictError(f"{reviewer} has already judged pair {pair.id} as {earlier.verdict!r}.")
    judgment = Judgment(
        id=new_id("jdg"),
        pair_id=pair.id,
        reviewer=reviewer,
        source=source,
        verdict=verdict,
        reason=reason,
        created_at=now(),
    )
    session.add(judgment)
    if verdict in ("a", "b"):
        decided = {"state": "decided", "chosen": verdict, "decided_at": now()}
    else:
        decided = {"state": "dropped", "decided_at": now()}
    session.execute(
        update(PreferencePair)
        .where(col(PreferencePair.id) == pair.id, col(PreferencePair.state) == "waiting")
        .values(**decided)
    )
    details = {"judgment": judgment.id, "verdict": verdict, "source": source}
    record_act(session, tenant=pair.tenant, actor=reviewer, act="judge", subject=pair.id, details=details)
    return judgment


def decided_pairs(session: Session, *, tenant: str) -> list[PreferencePair]:
    """Every pair with a winner, oldest first: what the next dataset version may hold."""
    query = select(PreferencePair).where(PreferencePair.tenant == tenant, PreferencePair.state == "decided")
    return list(session.exec(query.order_by(col(PreferencePair.id))))


def latest_pairs(session: Session, *, tenant: str, state: str | None, limit: int = 50) -> list[PreferencePair]:
    """Newest first, of one state or of all."""
    query = select(PreferencePair).where(PreferencePair.tenant == tenant)
    if state is not None:
        query = query.where(PreferencePair.state == state)
    return list(session.exec(query.order_by(col(PreferencePair.id).desc()).limit(limit)))


def pair_counts(session: Session, *, tenant: str) -> dict[str, int]:
    """How many pairs are waiting, decided and dropped."""
    query = (
        select(PreferencePair.state, func.count())
        .where(PreferencePair.tenant == tenant)
        .group_by(col(PreferencePair.state))
    )
    return {"waiting": 0, "decided": 0, "dropped": 0} | dict(session.exec(query).all())
