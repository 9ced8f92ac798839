"""The evidence of a running experiment: read from interactions and ratings, judged, stored, acted on.

The first SHIP is kept as it stands, so that an approval can be bound to it, unless a later look says ROLLBACK or
INVALID; those stop the experiment at once, in the transaction that stores them. The rules are in `serving/verdict.py`.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from sqlalchemy import Engine as Database
from sqlalchemy import and_, case, func, or_
from sqlalchemy import select as select_columns
from sqlmodel import Session, col, select

from flywheel.audit import record_act
from flywheel.database import reading, writing
from flywheel.experiments import (
    CHALLENGER,
    CHAMPION,
    Experiment,
    climb,
    record_evidence,
    running_experiments,
    stop_experiment,
)
from flywheel.feedback import PICK, RATED_BY, RATING, Feedback
from flywheel.implicit import SOURCE as IMPLICIT
from flywheel.interactions import Interaction
from flywheel.pairs import Candidate, PreferencePair
from flywheel.prompt_versions import version_of
from flywheel.tried import GATE_NOT_ASKED
from serving.preferences import Preferences, look_at_picks, look_at_shadow
from serving.verdict import MOST, UserCounts, look, may_climb

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
BEGINNING = min(map(len, REFUSALS))


def look_at_running(database: Database, *, alias: str) -> bool:
    """Take a look at each of the alias's running experiments and store it.

    True when users are answered otherwise from now on: one was stopped, or its ramp went on.
    """
    with reading(database) as session:
        running = running_experiments(session, alias=alias)
    changed = [_look_at(database, experiment) for experiment in running]
    return any(changed)


def _look_at(database: Database, experiment: Experiment) -> bool:
    with reading(database) as session:
        evidence = _look(session, experiment)
    earlier = experiment.evidence or {}
    final, climbs = evidence["verdict"] in ("ROLLBACK", "INVALID"), may_climb(experiment, evidence)
    settled = earlier.get("verdict") == "SHIP" or _figures(earlier) == _figures(evidence)
    if settled and not final and not climbs:
        return False
    with writing(database) as session:
        current = session.get_one(Experiment, experiment.id, with_for_update=True)
        if current.state != "running":
            return False
        if final or current.evidence_hash == experiment.evidence_hash:
            return _act_on(session, current, evidence, final=final, new=final or not settled, climbs=climbs)
    return _look_at(database, current)  # somebody else has looked meanwhile, perhaps at less, and perhaps said SHIP


def _act_on(
    session: Session, current: Experiment, evidence: dict[str, Any], *, final: bool, new: bool, climbs: bool
) -> bool:
    """Store what is `new`, and do what follows from it. True when users are answered otherwise from now on."""
    details = {"verdict": evidence["verdict"], "sentence": evidence["sentence"]}
    if new:
        record_evidence(session, current, evidence)
        if evidence["verdict"] != "HOLD":
            record_act(
                session, tenant=current.tenant, actor="system", act="verdict", subject=current.id, details=details
            )
    if not final:
        if climbs:
            climb(session, current)
        return climbs
    stop_experiment(session, current, state="stopped")
    record_act(
        session, tenant=current.tenant, actor="system", act="stop_experiment", subject=current.id, details=details
    )
    return True


def _look(session: Session, experiment: Experiment) -> dict[str, Any]:
    """The figures, and what they compare: an approval is bound to both."""
    variants = {CHAMPION: experiment.champion_variant, CHALLENGER: experiment.challenger_variant}
    compared = {arm: {"adapter": one.adapter, "prompt": version_of(one.prompt)} for arm, one in variants.items()}
    note = {"gate_note": GATE_NOT_ASKED} if experiment.challenger == experiment.champion else {}
    return _figures_now(session, experiment) | {"variants": compared} | note


def _figures_now(session: Session, experiment: Experiment) -> dict[str, Any]:
    if experiment.mode == "interleaved":
        picks, shown_first = user_picks(session, experiment)
        return look_at_picks(experiment, picks, shown_first=shown_first)
    if experiment.mode == "shadow":
        return look_at_shadow(experiment, *shadowed(session, experiment))
    return look(experiment, user_counts(session, experiment))


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
    # One look at the first letters, which most answers fail, instead of one for each phrase.
    begins = func.substr(words, 1, BEGINNING).in_({phrase[:BEGINNING] for phrase in REFUSALS})
    refused = and_(begins, or_(*(words.startswith(phrase, autoescape=True) for phrase in REFUSALS)))
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


def user_picks(session: Session, experiment: Experiment) -> tuple[Preferences, dict[str, int]]:
    """The first pick of every user, and how often each arm's answer was shown first."""
    mine = (col(Interaction.experiment_id) == experiment.id, col(Interaction.status) == "finished")
    shown = select_columns(col(Interaction.arm), func.count()).where(*mine).group_by(col(Interaction.arm))
    shown_first = dict.fromkeys((CHAMPION, CHALLENGER), 0) | {arm: int(count) for arm, count in session.execute(shown)}
    picked = (
        select_columns(func.min(col(Feedback.id)))
        .join(Interaction, col(Interaction.id) == col(Feedback.completion_id))
        .where(*mine, col(Feedback.name) == PICK, col(Feedback.source).in_(RATED_BY))
        .group_by(col(Interaction.unit))
    )
    query = (
        select_columns(col(Interaction.arm), col(Feedback.choice))
        .join(Feedback, col(Feedback.completion_id) == col(Interaction.id))
        .where(col(Feedback.id).in_(picked))
    )
    # The arm of the row is that of choice 0.
    won = [(arm == CHALLENGER) == (choice == 0) for arm, choice in session.execute(query)]
    return Preferences(sum(won), len(won) - sum(won)), shown_first


def shadowed(session: Session, experiment: Experiment) -> tuple[list[UserCounts], Preferences]:
    """Users by both variants' answers to the same questions, and what reviewers preferred.

    Other candidates for the same questions (a refill's) are the champion's, so a variant tells them apart.
    """
    shadows = [col(Candidate.adapter) == experiment.challenger]
    if experiment.challenger == experiment.champion:
        shadows.append(col(Candidate.prompt_version) == version_of(experiment.challenger_prompt))
    query = (
        select_columns(col(Interaction.unit), col(Interaction.answer), col(Interaction.finish_reason), Candidate)
        .join(Candidate, col(Candidate.completion_id) == col(Interaction.id))
        .where(col(Interaction.experiment_id) == experiment.id, *shadows)
    )
    said: dict[tuple[str, str], list[tuple[str, str | None]]] = defaultdict(list)
    for unit, answer, finish_reason, shadow in session.execute(query):
        said[unit, CHAMPION].append((answer or "", finish_reason))
        said[unit, CHALLENGER].append((shadow.text, shadow.parameters.get("finish_reason")))
    users = [_by_words(unit, arm, answers) for (unit, arm), answers in said.items()]
    sides = (
        select_columns(col(PreferencePair.chosen), col(PreferencePair.a_candidate))
        .join(Candidate, col(Candidate.id).in_((PreferencePair.a_candidate, PreferencePair.b_candidate)))
        .join(Interaction, col(Interaction.id) == col(PreferencePair.completion_id))
        .where(
            col(Interaction.experiment_id) == experiment.id,
            *shadows,
            col(PreferencePair.state) == "decided",
        )
    )
    won = [(chosen == "a") == (a_candidate is not None) for chosen, a_candidate in session.execute(sides)]
    return users, Preferences(sum(won), len(won) - sum(won))


def _by_words(unit: str, arm: str, answers: list[tuple[str, str | None]]) -> UserCounts:
    """A user by the words of answers alone."""
    flawed = sum(not text.strip() or reason == "length" for text, reason in answers)
    refused = sum(text.strip().lower().startswith(REFUSALS) for text, _ in answers) / len(answers)
    words = sum(min(MOST["words"], len(text.split())) for text, _ in answers) / len(answers)
    return UserCounts(unit, arm, len(answers), 0, flawed, None, refused=refused, words=words)
