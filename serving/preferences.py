"""Verdicts where two answers to one question are compared with each other: users' picks, and judgments of shadows.

Interleaved: each user counts once, by the first pick they made, so the picks are independent coins if the adapters are
equally good; the beta-binomial e-value may then be looked at after every user. Which adapter is shown first is a coin
of its own, and is tested like a sample ratio. SHIP as in a split: enough users, enough time, evidence of 1 / α.

Shadow: nobody has seen the challenger's answers, so there is nothing to ship on: the verdict is HOLD, or ROLLBACK when
the answers break a guardrail. What reviewers prefer is told beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flywheel.experiments import CHALLENGER, CHAMPION, Experiment
from flywheel.statistics.confidence import asymptotic_margin, e_value, sequence_scale
from flywheel.statistics.sample_ratio import ALARM_LOG_E, log_e_value
from flywheel.statistics.sequential import PROMOTION_ALPHA
from flywheel.statistics.win_rates import beta_binomial_log_e
from serving.verdict import UserCounts, guardrail_reports, hours_left, looks_so_far

FAIR = 1 / 2
LARGEST_VARIANCE = 1 / 4
"""Of a coin."""
SHADOW_RAILS = ("empty_or_cut", "refusals", "words")
"""What can be told of an answer that nobody saw."""


@dataclass(frozen=True)
class Preferences:
    """How often the challenger's answer was preferred to the champion's, and how often not."""

    wins: int
    losses: int


def look_at_picks(experiment: Experiment, picks: Preferences, *, shown_first: dict[str, int]) -> dict[str, Any]:
    """The evidence of an interleaved experiment. `shown_first` counts the questions of which each arm's answer came
    first."""
    order = log_e_value([shown_first[CHALLENGER], shown_first[CHAMPION]], [FAIR, FAIR])
    evidence = _compared(experiment, picks) | {
        "exposed": dict.fromkeys((CHAMPION, CHALLENGER), sum(shown_first.values())),
        "sample_ratio": {"e_value": e_value(order), "ok": order < ALARM_LOG_E},
        "guardrails": [],
    }
    verdict, sentence = _verdict_on_picks(experiment, evidence, picks, shown_first)
    return _with_looks(experiment, evidence | {"verdict": verdict, "sentence": sentence})


def look_at_shadow(experiment: Experiment, users: Sequence[UserCounts], judged: Preferences) -> dict[str, Any]:
    """The evidence of a shadowed experiment: `users` are the same ones in both arms, by the answers to the same
    questions."""
    arms = {arm: [user for user in users if user.arm == arm] for arm in (CHAMPION, CHALLENGER)}
    answers = sum(user.finished for user in arms[CHALLENGER])
    guardrails = [rail for rail in guardrail_reports(arms) if rail["name"] in SHADOW_RAILS]
    evidence = _compared(experiment, judged) | {
        "exposed": {CHAMPION: len(arms[CHAMPION]), CHALLENGER: 0},
        "sample_ratio": {"e_value": 1.0, "ok": True},
        "guardrails": guardrails,
    }
    broken = [rail["sentence"] for rail in guardrails if not rail["ok"]]
    if broken:
        verdict, sentence = "ROLLBACK", " ".join(broken) + " The shadow was stopped; no user has met the challenger."
    else:
        verdict = "HOLD"
        total = judged.wins + judged.losses
        preferred = f"reviewers preferred {judged.wins} of {total} to the champion's" if total else "none is judged yet"
        sentence = f"{answers} answers of the challenger were kept and shown to no user; {preferred}."
    return _with_looks(experiment, evidence | {"verdict": verdict, "sentence": sentence})


def _compared(experiment: Experiment, found: Preferences) -> dict[str, Any]:
    """Win rates as means, their difference (from −1 to 1) with a confidence sequence, and the e-value."""
    total = found.wins + found.losses
    evidence: dict[str, Any] = {
        "users": {CHAMPION: found.losses, CHALLENGER: found.wins, "excluded_both_arms": 0},
        "mean": {CHAMPION: None, CHALLENGER: None},
        "minimum_users": experiment.minimum_users,
        "planned_effect": experiment.planned_effect,
        "alpha": PROMOTION_ALPHA,
        "difference": None,
        "confidence": None,
        "e_value": 1.0,
        "smallest_visible_effect": None,
        "shown": False,
    }
    if not total:
        return evidence
    rate = found.wins / total
    margin = asymptotic_margin(total, LARGEST_VARIANCE, r=sequence_scale(PROMOTION_ALPHA), alpha=PROMOTION_ALPHA)
    low, high = max(0.0, rate - margin), min(1.0, rate + margin)
    log_e = beta_binomial_log_e(found.wins, found.losses)
    return evidence | {
        "mean": {CHAMPION: 1 - rate, CHALLENGER: rate},
        "difference": 2 * rate - 1,
        "confidence": [2 * low - 1, 2 * high - 1],
        "e_value": e_value(log_e),
        "smallest_visible_effect": _smallest(total),
        "shown": rate > FAIR and e_value(log_e) >= 1 / PROMOTION_ALPHA,
    }


def _smallest(total: int) -> float | None:
    """The smallest difference of win rates that so many picks could show; None when not even all of them could."""
    for wins in range(total // 2, total + 1):
        if e_value(beta_binomial_log_e(wins, total - wins)) >= 1 / PROMOTION_ALPHA:
            return 2 * wins / total - 1
    return None


def _verdict_on_picks(
    experiment: Experiment, evidence: dict[str, Any], picks: Preferences, shown_first: dict[str, int]
) -> tuple[str, str]:
    total = picks.wins + picks.losses
    if not evidence["sample_ratio"]["ok"]:
        return "INVALID", (
            f"The challenger's answer came first {shown_first[CHALLENGER]} times and the champion's "
            f"{shown_first[CHAMPION]} times, which is no fair coin: find out why, then try again."
        )
    if total < experiment.minimum_users:
        return "HOLD", f"{experiment.minimum_users} users have to pick: {experiment.minimum_users - total} more."
    if (hours := hours_left(experiment)) > 0:
        return "HOLD", f"The experiment is to run for {experiment.minimum_hours:g} hours: {hours:.1f} more."
    told = f"{picks.wins} of {total} users picked the challenger's answer"
    if evidence["shown"]:
        return "SHIP", f"{told}, with evidence {evidence['e_value']:.0f} to 1."
    return "HOLD", f"Not shown to be better: {told}."


def _with_looks(experiment: Experiment, evidence: dict[str, Any]) -> dict[str, Any]:
    return evidence | {"looks": looks_so_far(experiment.evidence, evidence)}
