from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from flywheel.errors import UserError
from retrain.gate import judge
from retrain.gate_prompts import GatePrompt, help_centre_sections, read_prompts
from retrain.run_folder import Answer, Likelihood, Outcomes

RIGHT, CHATTY, WRONG = (
    "It costs 12 euros a month [1].",
    "Thanks for reaching out! It costs 12 euros.",
    "It costs 5 euros [1].",
)
UNKNOWN, GUESS = "I do not know that.", "It costs 9 euros a month [2]."


def prompts(answerable: int, unanswerable: int = 0) -> list[GatePrompt]:
    asked = [{"role": "user", "content": "What does it cost?"}]
    some = [GatePrompt(id=f"a{n}", messages=asked, kind="answerable", expected=["12"]) for n in range(answerable)]
    return some + [GatePrompt(id=f"u{n}", messages=asked, kind="unanswerable") for n in range(unanswerable)]


def outcomes(before: Sequence[str], after: Sequence[str], **values: Any) -> Outcomes:
    def answers(texts: Sequence[str]) -> list[Answer]:
        return [Answer(text=text.removesuffix("…"), finished=not text.endswith("…"), tokens=9) for text in texts]

    empty: dict[str, Any] = {"validation_before": [], "validation_after": [], "probes": [], "probe_distance": 0.0}
    return Outcomes(before=answers(before), after=answers(after), **(empty | values))


def checks(report: dict[str, Any]) -> dict[str, bool]:
    return {check["name"]: check["passed"] for check in report["checks"]}


def test_an_adapter_that_keeps_the_facts_and_gains_the_behaviour_passes() -> None:
    before, after = [CHATTY] * 80 + [GUESS] * 20, [RIGHT] * 80 + [UNKNOWN] * 20
    report = judge(prompts(80, 20), outcomes(before, after), has_preference=True)
    assert report["passed"]
    assert checks(report) == dict.fromkeys(("facts", "wanted", "honesty", "answering", "whole", "length"), True)
    assert (report["before"]["wanted"], report["after"]["wanted"]) == (0.0, 1.0)
    assert report["prompts"] == 100
    assert len(report["prompts_hash"]) == 64


def test_a_few_answers_of_both_are_kept_for_the_person_who_decides() -> None:
    before, after = [RIGHT, CHATTY] * 10 + [GUESS] * 5, [RIGHT] * 20 + [UNKNOWN] * 5
    samples = judge(prompts(20, 5), outcomes(before, after), has_preference=True)["samples"]
    assert [sample["kind"] for sample in samples] == ["answerable", "unanswerable"] * 3
    assert samples[0] == {"kind": "answerable", "question": "What does it cost?", "before": CHATTY, "after": RIGHT}


def test_users_words_in_the_validation_split_are_not_kept() -> None:
    assert judge([], outcomes([RIGHT], [RIGHT]), has_preference=False)["samples"] == []


def test_facts_lost_beyond_the_margin_refuse_it_however_wanted_the_answers_are() -> None:
    report = judge(prompts(100), outcomes([CHATTY] * 100, [RIGHT] * 96 + [WRONG] * 4), has_preference=True)
    assert not report["passed"]
    assert checks(report)["wanted"]
    assert not checks(report)["facts"]
    assert report["sentence"] == "Refused by facts."


def test_a_small_loss_that_is_not_excluded_passes_and_says_so() -> None:
    report = judge(prompts(100), outcomes([CHATTY] * 100, [RIGHT] * 98 + [WRONG] * 2), has_preference=True)
    facts = next(check for check in report["checks"] if check["name"] == "facts")
    assert facts["passed"]
    assert "100 prompts cannot exclude one" in facts["sentence"]


def test_many_prompts_exclude_a_loss() -> None:
    report = judge(prompts(400), outcomes([CHATTY] * 400, [RIGHT] * 399 + [WRONG]), has_preference=True)
    assert "a loss beyond 3% is excluded" in report["checks"][0]["sentence"]


def test_a_loss_within_the_margin_that_is_no_accident_refuses_it() -> None:
    """Eight facts lost of 300, none gained: 2.7 points, McNemar p = .004."""
    report = judge(prompts(300), outcomes([CHATTY] * 300, [RIGHT] * 292 + [WRONG] * 8), has_preference=True)
    assert not checks(report)["facts"]


def test_no_visible_rise_of_the_wanted_behaviour_refuses_it() -> None:
    report = judge(prompts(60), outcomes([CHATTY] * 60, [CHATTY] * 59 + [RIGHT]), has_preference=True)
    assert not checks(report)["wanted"]


def test_an_adapter_that_learnt_to_refuse_what_it_could_answer_is_refused() -> None:
    before, after = [RIGHT] * 60 + [GUESS] * 40, [RIGHT] * 50 + [UNKNOWN] * 50
    report = judge(prompts(60, 40), outcomes(before, after), has_preference=True)
    assert checks(report)["honesty"]
    assert not checks(report)["answering"]


@pytest.mark.parametrize(
    "broken", ["", "It costs 12 euros and…", "12 euros [1] 12 euros [1] 12 euros [1] 12 euros [1]"]
)
def test_empty_cut_or_stuck_answers_refuse_it(broken: str) -> None:
    report = judge(prompts(50), outcomes([CHATTY] * 50, [RIGHT] * 47 + [broken] * 3), has_preference=True)
    assert not checks(report)["whole"]


def test_answers_twice_as_long_refuse_it() -> None:
    report = judge(
        prompts(50),
        outcomes([WRONG] * 50, [RIGHT + " It is really so, as I said before." * 2] * 50),
        has_preference=False,
    )
    assert not checks(report)["length"]


def likely(chosen: float, rejected: float) -> Likelihood:
    return Likelihood(chosen=chosen, rejected=rejected, chosen_tokens=10)


@pytest.mark.parametrize(
    ("after", "passed", "name"),
    [
        (likely(-9, -30), True, ""),
        (likely(-12, -9), False, "preference"),
        (likely(-40, -90), False, "chosen_likelihood"),
    ],
)
def test_without_gate_prompts_likelihoods_decide_and_the_report_says_facts_were_not_checked(
    after: Likelihood, passed: bool, name: str
) -> None:
    values = {"validation_before": [likely(-10, -10)] * 5, "validation_after": [after] * 5}
    report = judge([], outcomes(["A fine answer."] * 5, ["A fine answer."] * 5, **values), has_preference=False)
    assert report["passed"] is passed
    assert report["sentence"].endswith("Facts were not checked: there are no gate prompts.")
    assert name in report["sentence"]


def test_nothing_to_check_is_no_pass() -> None:
    assert not judge([], outcomes([], []), has_preference=False)["passed"]


def test_own_gate_prompts_are_read_and_a_wrong_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "gate.jsonl"
    good = {
        "id": "1",
        "messages": [{"role": "user", "content": "?"}],
        "kind": "answerable",
        "expected": ["12"],
        "system": "Be short.",
    }
    file.write_text(json.dumps(good) + "\n")
    assert read_prompts(file)[0].asked == [{"role": "system", "content": "Be short."}, {"role": "user", "content": "?"}]
    file.write_text(json.dumps(good) + "\n" + json.dumps(good | {"kind": "odd"}) + "\n")
    with pytest.raises(UserError, match="line 2: kind:"):
        read_prompts(file)
    with pytest.raises(UserError, match="there is no file"):
        read_prompts(tmp_path / "missing.jsonl")


def test_sections_of_the_help_centre_are_read_by_document(tmp_path: Path) -> None:
    (tmp_path / "plans.md").write_text(
        "# Plans\n\n## Maple\nIt costs 12 euros\na month.\n\n## Oak\n\nIt costs 20 euros.\n"
    )
    assert help_centre_sections(tmp_path) == [
        ("plans.md", "Plans", "Maple", "It costs 12 euros a month."),
        ("plans.md", "Plans", "Oak", "It costs 20 euros."),
    ]
