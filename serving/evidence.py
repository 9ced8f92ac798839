"""The evidence of a running experiment: read from interactions and ratings, judged, stored, acted on.

The first SHIP is kept as it stands, so that an approval can be bound to it, unless a later look says ROLLBACK or
INVALID; those stop the experiment at once, in the transaction that stores them. The rules are in `serving/verdict.py`.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine as Database
from sqlalchemy import and_, case, func, or_
from sqlalchemy import select as select_columns
from sqlmodel import Session, col, select

from flywheel.audit import record_act
from flywheel.database import reading, writing
from flywheel.experiments import Experiment, record_evidence, running_experiment, stop_experiment
from flywheel.feedback import RATING, Feedback
from flywheel.implicit import SOURCE as IMPLICIT
from flywheel.interactions import Interaction
from serving.verdict import MOST, UserCounts, look

WHITESPACE = " \n\r\t"
REFUSALS = (
    "i do not know",
    "i don't know",
    "i don’t know",
    "i cannot",
    "i can't",
    "i can’t",
    "i am not able",
    "i'm not able",
    "i’m not able",
    "i am unable",
    "i'm unable",
    "i’m unable",
    "sorry",
    "i am sorry",
    "i'm sorry",
    "i’m sorry",
    "as an ai",
)
"""How an answer begins that refuses. English; in other languages the guardrail sees none, in both arms alike."""
RATED_BY = ("user", "simulated")
"""Whose ratings count: those of the people who were answered."""


def look_at_running(database: Database, *, alias: str) -> bool:
    """Take a look at the alias's running experiment and store it; True when that stopped the experiment."""
    with reading(database) as session:
        experiment = running_experiment(session, alias=alias)
        if experiment is None:
            return False
        evidence = look(experiment, user_counts(session, experiment))
    earlier = experiment.evidence or {}
    final = evidence["verdict"] in ("ROLLBACK", "INVALID")
    if not final and (earlier.get("verdict") == "SHIP" or _figures(earlier) == _figures(evidence)):
        return False
    with writing(database) as session:
        current = session.get_one(Experiment, experiment.id, with_for_update=True)
        if current.state != "running" or (not final and current.evidence_hash != experiment.evidence_hash):
            return False  # somebody else has looked meanwhile, and perhaps said SHIP: the next look will see it
        record_evidence(session, current, evidence)
        if not final:
            return False
        stop_experiment(session, current, state="stopped")
        details = {"verdict": evidence["verdict"], "sentence": evidence["sentence"]}
        record_act(
            session,
            tenant=current.tenant,
            actor="system",
            act="stop_experiment",
            subject=current.id,
            details=details,
        )
    return True


def _figures(evidence: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in evidence.items() if key != "looks"}


def user_counts(session: Session, experiment: Experiment) -> list[UserCounts]:
    """Every user of every arm, read from the interactions and their newest ratings."""
    mine = col(Interaction.experiment_id) == experiment.id
    newest = (
        select(func.max(col(Feedback.id)))
        .join(Interaction, col(Interaction.id) == col(Feedback.completion_id))
        .where(mine, Feedback.name == RATING, col(Feedback.source).in_(RATED_BY))
        .group_by(col(Feedback.completion_id), col(Feedback.choice), func.coalesce(col(Feedback.actor), ""))
    )
    rated = (
        select_columns(
            col(Interaction.unit),
            col(Interaction.arm),
            func.avg(Feedback.score),
            func.count(func.distinct(col(Interaction.id))),
        )
        .join(Feedback, col(Feedback.completion_id) == col(Interaction.id))
        .where(mine, col(Feedback.id).in_(newest))
        .group_by(col(Interaction.unit), col(Interaction.arm))
    )
    ratings = {(unit, arm): (float(mean), int(count)) for unit, arm, mean, count in session.execute(rated)}
    finished = col(Interaction.status) == "finished"
    length = func.length(func.trim(func.coalesce(col(Interaction.answer), ""), WHITESPACE))
    no_text = func.coalesce(col(Interaction.answer_words), length) == 0
    again = select(Feedback.completion_id).where(Feedback.name == "regenerate", Feedback.source == IMPLICIT)
    words = func.lower(func.ltrim(func.coalesce(col(Interaction.answer), ""), WHITESPACE))
    refused = or_(*(words.startswith(phrase, autoescape=True) for phrase in REFUSALS))
    counted = (
        select_columns(
            col(Interaction.unit),
            col(Interaction.arm),
            _count(finished),
            _count(col(Interaction.status) == "failed"),
            _count(and_(finished, or_(no_text, col(Interaction.finish_reason) == "length"))),
            _count(and_(finished, refused)),
            _count(and_(finished, col(Interaction.id).in_(again))),
            *(
                func.avg(case((finished, case((column > MOST[name], MOST[name]), else_=column))))
                for name, column in (
                    ("seconds", col(Interaction.answer_seconds)),
                    ("first_token_seconds", col(Interaction.first_token_seconds)),
                    ("words", col(Interaction.answer_words)),
                )
            ),
        )
        .where(mine, col(Interaction.arm).is_not(None))
        .group_by(col(Interaction.unit), col(Interaction.arm))
    )
    return [_user(row, ratings.get((row[0], row[1]))) for row in session.execute(counted)]


def _count(holds: Any) -> Any:
    return func.sum(case((holds, 1), else_=0))


def _user(row: Any, rated: tuple[float, int] | None) -> UserCounts:
    unit, arm, done, failed, flawed, refused, again, *means = row
    done = int(done)
    shares = [int(count) / done if done else None for count in (refused, again, done - (rated[1] if rated else 0))]
    times = [None if mean is None else float(mean) for mean in means]
    return UserCounts(unit, arm, done, int(failed), int(flawed), rated[0] if rated else None, *shares, *times)
