"""The verdict on an experiment, computed from its users: pure figures in, evidence out, no database.

Users count once, by their mean; users answered by both arms are excluded and reported; an arm is exposed to a user only
by a finished answer. Verdicts, in this order:

    INVALID   the arms did not get their shares of users, or too many users met both: nothing else may be believed
    ROLLBACK  a guardrail broke: the challenger fails, cuts or displeases clearly more
    SHIP      both arms have the minimum of rated users and the challenger is shown to be better
    HOLD      anything else

Every look is valid whenever it is taken (flywheel/statistics/sequential.py). A guardrail is a mean over users of a
figure between 0 and 1, so times and lengths are measured in parts of a fixed most: it sees a shift of the mean, not of
the slowest twentieth.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from flywheel.database import now
from flywheel.experiments import CHALLENGER, CHAMPION, Experiment
from flywheel.statistics.confidence import e_value
from flywheel.statistics.sample_ratio import ALARM_LOG_E, log_e_value
from flywheel.statistics.sequential import PROMOTION_ALPHA, UserMeans, guardrail_evidence, promotion_evidence

GUARDRAIL_ALPHA = 0.001
"""Per guardrail: nine of them stop a faultless challenger in less than one experiment of a hundred."""
GUARDRAIL_PLANNED = 0.15
"""The harm beyond the margin that is to be seen soonest: users of a broken challenger are spared first."""
GUARDRAIL_USERS = 30
"""Per arm, before a guardrail may break."""
MIXED_USERS, MIXED_SHARE = 5, 0.01
"""More users than both of these in two arms make an experiment invalid."""
LOOKS = 60


@dataclass(frozen=True)
class UserCounts:
    """One user in one arm. Rates are means over their answers; `rating` is None when they rated nothing."""

    unit: str
    arm: str
    finished: int
    failed: int
    flawed: int
    """Finished, but empty or cut."""
    rating: float | None
    refused: float | None = None
    regenerated: float | None = None
    unrated: float | None = None
    """Shares of their finished answers."""
    seconds: float | None = None
    first_token_seconds: float | None = None
    words: float | None = None
    """Means over their finished answers, each counted up to the most that `MOST` says."""


MOST = {"seconds": 30.0, "first_token_seconds": 10.0, "words": 400.0}
"""Where a mean's scale ends: one answer counts for no more."""


@dataclass(frozen=True)
class Guardrail:
    name: str
    margin: float
    """How much worse the challenger may be, between 0 and 1."""
    words: str
    field: str = ""
    """What of a user it reads, where that is not worked out below."""
    unit: str = ""
    """Of figures that are shown on their own scale."""


GUARDRAILS = (
    Guardrail("error_rate", 0.02, "failed answers"),
    Guardrail("empty_or_cut", 0.05, "empty or cut answers"),
    Guardrail("rating", 0.05, "lower ratings"),
    Guardrail("refusals", 0.10, "refusals", "refused"),
    Guardrail("regenerated", 0.05, "answers that users have made again", "regenerated"),
    Guardrail("unrated", 0.10, "answers that nobody rates", "unrated"),
    Guardrail("seconds", 0.10, "slower answers", "seconds", "s"),
    Guardrail("first_token_seconds", 0.05, "later first tokens", "first_token_seconds", "s"),
    Guardrail("words", 0.15, "longer answers", "words", "words"),
)


def look(experiment: Experiment, users: list[UserCounts]) -> dict[str, Any]:
    """The evidence of this moment, as it is stored, shown and hashed."""
    met = {arm: {user.unit for user in users if user.arm == arm and user.finished} for arm in (CHAMPION, CHALLENGER)}
    mixed = met[CHAMPION] & met[CHALLENGER]
    arms = {
        arm: [user for user in users if user.arm == arm and user.unit not in mixed] for arm in (CHAMPION, CHALLENGER)
    }
    exposed = {arm: len(met[arm] - mixed) for arm in met}
    log_e = log_e_value(
        [exposed[CHALLENGER], exposed[CHAMPION]], [experiment.traffic_share, 1 - experiment.traffic_share]
    )
    ratio = {"e_value": e_value(log_e), "ok": log_e < ALARM_LOG_E}
    too_mixed = len(mixed) > max(MIXED_USERS, MIXED_SHARE * (sum(exposed.values()) + len(mixed)))
    rated = {arm: _means(user.rating for user in arms[arm] if user.rating is not None) for arm in arms}
    evidence: dict[str, Any] = {
        "users": {
            CHAMPION: rated[CHAMPION].users,
            CHALLENGER: rated[CHALLENGER].users,
            "excluded_both_arms": len(mixed),
        },
        "exposed": exposed,
        "mean": {arm: rated[arm].total / rated[arm].users if rated[arm].users else None for arm in rated},
        "sample_ratio": ratio,
        "guardrails": guardrail_reports(arms),
        "minimum_users": experiment.minimum_users,
        "planned_effect": experiment.planned_effect,
        "alpha": PROMOTION_ALPHA,
    } | _comparison(rated, planned=experiment.planned_effect)
    verdict, sentence = _verdict(evidence, experiment=experiment, too_mixed=too_mixed)
    return evidence | {"verdict": verdict, "sentence": sentence, "looks": looks_so_far(experiment.evidence, evidence)}


def _means(values: Iterable[float]) -> UserMeans:
    means = list(values)
    return UserMeans(len(means), sum(means), sum(value * value for value in means))


def _comparison(rated: dict[str, UserMeans], *, planned: float) -> dict[str, Any]:
    """Difference, confidence sequence and e-value; nulls before each arm has two rated users."""
    if min(arm.users for arm in rated.values()) < 2:
        return {
            "difference": None,
            "confidence": None,
            "e_value": 1.0,
            "smallest_visible_effect": None,
            "shown": False,
        }
    found = promotion_evidence(rated[CHAMPION], rated[CHALLENGER], planned=planned)
    return {
        "difference": found.difference,
        "confidence": [found.lower, found.upper],
        "e_value": found.e_value,
        "smallest_visible_effect": found.smallest_effect,
        "shown": found.shown,
    }


def _score(rule: Guardrail, user: UserCounts) -> float | None:
    """A user's mean between 0 and 1, higher is better; None when they say nothing about this guardrail."""
    if rule.field:
        found: float | None = getattr(user, rule.field)
        return None if found is None else 1 - found / MOST.get(rule.field, 1)
    if rule.name == "rating":
        return user.rating
    if rule.name == "error_rate":
        asked = user.finished + user.failed
        return 1 - user.failed / asked if asked else None
    return 1 - user.flawed / user.finished if user.finished else None


def guardrail_reports(arms: dict[str, list[UserCounts]]) -> list[dict[str, Any]]:
    """Every guardrail: both arms' figures, whether it holds, and a sentence."""
    return [_guardrail(rule, arms) for rule in GUARDRAILS]


def _guardrail(rule: Guardrail, arms: dict[str, list[UserCounts]]) -> dict[str, Any]:
    scores = {
        arm: _means(score for user in users if (score := _score(rule, user)) is not None) for arm, users in arms.items()
    }
    most = MOST.get(rule.field, 1)
    shown = {arm: mean.total / mean.users if mean.users else None for arm, mean in scores.items()}
    if rule.name != "rating":
        shown = {arm: None if value is None else most * (1 - value) for arm, value in shown.items()}
    margin = f"{most * rule.margin:g} {rule.unit}" if rule.unit else f"{rule.margin:.0%}"
    report = {"name": rule.name, CHAMPION: shown[CHAMPION], CHALLENGER: shown[CHALLENGER], "ok": True}
    if min(mean.users for mean in scores.values()) < GUARDRAIL_USERS:
        return report | {"sentence": f"Watched from {GUARDRAIL_USERS} users per arm on."}
    found = guardrail_evidence(
        scores[CHAMPION], scores[CHALLENGER], margin=rule.margin, alpha=GUARDRAIL_ALPHA, planned=GUARDRAIL_PLANNED
    )
    if found.breached:
        words = f"The challenger gives {rule.words} by more than {margin}, compared with the champion."
        return report | {"ok": False, "sentence": words}
    return report | {"sentence": f"No sign of {rule.words} beyond the margin of {margin}."}


def _verdict(evidence: dict[str, Any], *, experiment: Experiment, too_mixed: bool) -> tuple[str, str]:
    users, needed = evidence["users"], experiment.minimum_users
    broken = [guardrail["sentence"] for guardrail in evidence["guardrails"] if not guardrail["ok"]]
    if not evidence["sample_ratio"]["ok"]:
        exposed = evidence["exposed"]
        return "INVALID", (
            f"The challenger answered {exposed[CHALLENGER]} users and the champion {exposed[CHAMPION]}, which does not "
            f"fit a share of {experiment.traffic_share:.0%}: something loses users of one arm. Find it, then try again."
        )
    if too_mixed:
        return (
            "INVALID",
            f"{users['excluded_both_arms']} users were answered by both arms: the comparison is not clean.",
        )
    if broken:
        return "ROLLBACK", " ".join(broken) + " The experiment was stopped; the champion answers everybody."
    short = needed - min(users[CHAMPION], users[CHALLENGER])
    if short > 0:
        return "HOLD", f"Each arm needs {needed} users who rated: at least {short} more in the smaller arm."
    if (hours := hours_left(experiment)) > 0:
        return "HOLD", f"The experiment is to run for {experiment.minimum_hours:g} hours: {hours:.1f} more."
    low, high = evidence["confidence"]
    gap = f"{evidence['difference']:+.3f} (between {low:+.3f} and {high:+.3f})"
    if evidence["shown"]:
        return "SHIP", f"Users rate the challenger higher: {gap}, with evidence {evidence['e_value']:.0f} to 1."
    smallest = evidence["smallest_visible_effect"]
    return "HOLD", f"Not shown to be better: {gap}. With these users a difference of {smallest:.3f} would have shown."


def hours_left(experiment: Experiment) -> float:
    """Of the least time that it is to run; below 0 once that has passed."""
    return experiment.minimum_hours - (now() - experiment.created_at).total_seconds() / 3600


def may_climb(experiment: Experiment, evidence: dict[str, Any]) -> bool:
    """Whether a ramp goes on to its next share: no harm was seen on enough new users of each arm."""
    enough = GUARDRAIL_USERS * (experiment.step + 1)
    on_the_way = experiment.step < len(experiment.ramp) and evidence["verdict"] in ("HOLD", "SHIP")
    exposed = evidence["exposed"].values()
    return on_the_way and (max(exposed) if experiment.mode == "shadow" else min(exposed)) >= enough


def looks_so_far(earlier: dict[str, Any] | None, evidence: dict[str, Any]) -> list[dict[str, Any]]:
    """The course of the difference: every look while there are few, then thinned by halves; the newest always stays."""
    looks = list((earlier or {}).get("looks", []))
    if evidence["difference"] is not None:
        low, high = evidence["confidence"]
        look = {"at": now().isoformat(), "users": evidence["users"][CHAMPION] + evidence["users"][CHALLENGER]}
        looks.append(
            look | {"difference": evidence["difference"], "low": low, "high": high, "e_value": evidence["e_value"]}
        )
    return looks if len(looks) <= LOOKS else looks[:-1:2] + looks[-1:]
