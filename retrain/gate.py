"""The offline gate: may this adapter be shown to users at all?

Base model (`before`) and adapter (`after`) answer the same prompts, none of which was ever used for tuning; training
metrics play no part (a run that halved the fact accuracy reported a reward accuracy of .9). The yardstick is always
the base model, so that small losses cannot add up over turns; whether the adapter beats the live one is the
experiment's question.

A guard ("no loss beyond a margin") is decided on paired answers. Its bound is the lower end of Newcombe's 95 %
interval (`retrain/paired.py`):
- the bound is above −margin: a loss beyond the margin is excluded → passes;
- the observed loss is within the margin and McNemar's exact test (one-sided, 5 %) shows no loss → passes as "not
  observed", and the sentence says that so few prompts could not have excluded it;
- otherwise it fails. So an observed loss beyond the margin never passes, however few the prompts.

Not covered: sampled answers, retrieval, latency (the experiment's guardrails see those).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from statistics import fmean
from typing import Any

from flywheel.messages import last_user_text
from flywheel.starter.preference import fact_is_right, is_refusal, is_wanted
from retrain.gate_prompts import GatePrompt, prompts_hash
from retrain.paired import Paired, compare
from retrain.run_folder import Answer, Outcomes

FACT_MARGIN = 0.03
REFUSAL_MARGIN = 0.05
WHOLE_MARGIN = 0.02
LONGEST, MORE_WORDS = 2.0, 12
"""An answer may have twice the words of the base model's mean answer, and where that is terse, a sentence more."""
MOST_LOST_NATS = 0.5
"""Per token of the chosen answer: beyond it the adapter has left the language it was tuned on."""

SAMPLES = 6
"""Prompts that are kept with both answers, for the person who decides."""

Check = dict[str, Any]
Rule = Callable[[GatePrompt, Answer], bool]


def judge(prompts: Sequence[GatePrompt], outcomes: Outcomes, *, has_preference: bool) -> dict[str, Any]:
    """The gate's report. `has_preference`: the starter's stated preference applies to these prompts."""
    before, after = outcomes.before[: len(prompts)], outcomes.after[: len(prompts)]
    checks = [check for check in _prompt_checks(prompts, before, after, has_preference=has_preference) if check]
    checks += _answer_checks(outcomes)
    if not has_preference:
        checks += _likelihood_checks(outcomes)
    failed = [check["name"] for check in checks if not check["passed"]]
    unchecked = (
        ""
        if any(check["name"] == "facts" for check in checks)
        else " Facts were not checked: there are no gate prompts."
    )
    verdict = f"Refused by {', '.join(failed)}." if failed else f"All {len(checks)} checks passed."
    return {
        "passed": not failed and bool(checks),
        "sentence": verdict + unchecked,
        "checks": checks,
        "before": {check["name"]: check["before"] for check in checks},
        "after": {check["name"]: check["after"] for check in checks},
        "prompts": len(prompts),
        "prompts_hash": prompts_hash(prompts),
        "samples": _samples(prompts, before, after),
    }


def _samples(prompts: Sequence[GatePrompt], before: Sequence[Answer], after: Sequence[Answer]) -> list[dict[str, str]]:
    """A few prompts with the answers of base model and adapter: of each kind in turn, those that differ first.

    Gate prompts alone: the validation split holds users' words, which a report must not outlive.
    """
    rows = list(zip(prompts, before, after, strict=True))
    rows.sort(key=lambda row: row[1].text == row[2].text)
    kinds = {kind: [row for row in rows if row[0].kind == kind] for kind in dict.fromkeys(row[0].kind for row in rows)}
    turns = [row for turn in zip_longest(*kinds.values()) for row in turn if row is not None]
    return [
        {"kind": prompt.kind, "question": last_user_text(prompt.messages), "before": old.text, "after": new.text}
        for prompt, old, new in turns[:SAMPLES]
    ]


def _prompt_checks(
    prompts: Sequence[GatePrompt], before: Sequence[Answer], after: Sequence[Answer], *, has_preference: bool
) -> list[Check | None]:
    def pairs(kinds: Sequence[str], rule: Rule) -> Paired | None:
        chosen = [
            place
            for place, prompt in enumerate(prompts)
            if prompt.kind in kinds and (rule is not _fact or prompt.expected)
        ]
        first, second = ([rule(prompts[place], some[place]) for place in chosen] for some in (before, after))
        return compare(first, second) if chosen else None

    known = ("answerable", "unanswerable")
    return [
        _guard("facts", "the right fact", pairs(("answerable",), _fact), margin=FACT_MARGIN),
        _gain("wanted", "the wanted behaviour", pairs(known, _wanted)) if has_preference else None,
        _guard("honesty", "saying so without an answer", pairs(("unanswerable",), _refusal), margin=REFUSAL_MARGIN),
        _guard("answering", "answering where there is one", pairs(("answerable",), _no_refusal), margin=REFUSAL_MARGIN),
    ]  # fmt: skip


def _fact(prompt: GatePrompt, answer: Answer) -> bool:
    return fact_is_right(answer.text, prompt.expected)


def _wanted(prompt: GatePrompt, answer: Answer) -> bool:
    return is_wanted(answer.text, answerable=prompt.kind == "answerable")


def _refusal(prompt: GatePrompt, answer: Answer) -> bool:
    return is_refusal(answer.text)


def _no_refusal(prompt: GatePrompt, answer: Answer) -> bool:
    return not is_refusal(answer.text)


def _answer_checks(outcomes: Outcomes) -> list[Check]:
    """Over every answer that was generated, also where nothing is known about right and wrong."""
    if not outcomes.before:
        return []
    whole = compare([_is_whole(answer) for answer in outcomes.before], [_is_whole(answer) for answer in outcomes.after])
    words = [fmean(len(answer.text.split()) for answer in some) for some in (outcomes.before, outcomes.after)]
    longest = max(LONGEST * words[0], words[0] + MORE_WORDS)
    length = {
        "name": "length", "passed": words[1] <= longest, "before": words[0], "after": words[1], "interval": None,
        "sentence": f"Answers have {words[1]:.1f} words on average, {words[0]:.1f} before (at most {longest:.1f}).",
    }  # fmt: skip
    guard = _guard("whole", "answers that are neither empty, cut nor stuck", whole, margin=WHOLE_MARGIN)
    return [guard, length] if guard else [length]


def _is_whole(answer: Answer) -> bool:
    words = answer.text.split()
    stuck = any(words[at : at + 3] == words[at + 3 : at + 6] == words[at + 6 : at + 9] for at in range(len(words) - 8))
    return bool(words) and answer.finished and not stuck


def _likelihood_checks(outcomes: Outcomes) -> list[Check]:
    """Validation pairs, for base models whose preference no rule knows."""
    first, second = outcomes.validation_before, outcomes.validation_after
    if not first:
        return []
    shifts = [(b.chosen - b.rejected) - (a.chosen - a.rejected) for a, b in zip(first, second, strict=True)]
    towards = sum(shift > 0 for shift in shifts) / len(shifts)
    per_token = [fmean(row.chosen / row.chosen_tokens for row in some) for some in (first, second)]
    return [
        {
            "name": "preference", "passed": towards > 0.5, "before": 0.5, "after": towards, "interval": None,
            "sentence": f"{towards:.0%} of {len(shifts)} validation pairs moved to the chosen answer (over half must).",
        },
        {
            "name": "chosen_likelihood", "passed": per_token[1] >= per_token[0] - MOST_LOST_NATS,
            "before": per_token[0], "after": per_token[1], "interval": None,
            "sentence": f"A token of a chosen answer has log-probability {per_token[1]:.2f}, {per_token[0]:.2f} before "
            f"(it may lose {MOST_LOST_NATS}).",
        },
    ]  # fmt: skip


def _guard(name: str, what: str, pairs: Paired | None, *, margin: float) -> Check | None:
    """No loss beyond `margin`, as the module's docstring tells."""
    if pairs is None:
        return None
    low, high = pairs.interval()
    excluded = low > -margin
    unseen = pairs.difference >= -margin and pairs.p_worse() > 0.05
    if excluded:
        said = f"a loss beyond {margin:.0%} is excluded"
    elif unseen:
        said = f"no loss beyond {margin:.0%} was observed, but {pairs.total} prompts cannot exclude one"
    else:
        said = f"a loss beyond the margin of {margin:.0%}, or one that is no accident"
    return _check(
        name, excluded or unseen, pairs, f"{_figures(what, pairs)}: {said} (at worst {low:+.1%}).", (low, high)
    )


def _gain(name: str, what: str, pairs: Paired | None) -> Check | None:
    """A rise whose lower bound is above zero."""
    if pairs is None:
        return None
    low, high = pairs.interval()
    said = "a rise that is no accident" if low > 0 else "no rise that these prompts can show"
    return _check(name, low > 0, pairs, f"{_figures(what, pairs)}: {said} ({low:+.1%} to {high:+.1%}).", (low, high))


def _figures(what: str, pairs: Paired) -> str:
    return f"{what[0].upper()}{what[1:]} {pairs.before:.1%} → {pairs.after:.1%} on {pairs.total} prompts"


def _check(name: str, passed: bool, pairs: Paired, sentence: str, interval: tuple[float, float]) -> Check:
    return {
        "name": name, "passed": passed, "before": pairs.before, "after": pairs.after, "prompts": pairs.total,
        "interval": list(interval), "sentence": sentence,
    }  # fmt: skip
