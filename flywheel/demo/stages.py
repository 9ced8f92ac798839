"""The stages of the demo, in order. Each uses only what anybody can use: the HTTP API and the stock `openai` client.

A stage that cannot go on raises `SaidNoError` with the stage and the reason; nothing is skipped and nothing is made
up.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, islice
from random import Random
from typing import Any

from rich.console import Console
from rich.prompt import Confirm

from flywheel import show
from flywheel.client import ApiClient
from flywheel.demo.measure import MEASURES, measured, paired_difference
from flywheel.demo.people import BOTH, Answer, People, liking
from flywheel.demo.questions import Question, questions
from flywheel.demo.swap import Timeline, Traffic, wrong_answers
from flywheel.demo.telling import Teller
from flywheel.errors import UserError

RULE = "rule: right, plain, cited, honest"
OPERATOR = "demo operator"


@dataclass(frozen=True)
class Scale:
    """How much is done. The quick one checks a machine; its figures are too few to quote."""

    visitors: int = 300
    questions_each: int = 3
    candidates: int = 2
    minimum_users: int = 60
    visitors_per_look: int = 60
    most_visitors: int = 1800
    swap_seconds: float = 3


QUICK = Scale(visitors=120, minimum_users=30, visitors_per_look=40, most_visitors=600, swap_seconds=1.5)


class SaidNoError(UserError):
    """A stage ended the turn: the adapter is not promoted, and why."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(f"The turn ends at the stage “{stage}”: {reason}")


@dataclass
class Turn:
    """What the stages hand on to each other."""

    api: ApiClient
    people: People
    tell: Teller
    scale: Scale
    alias: str
    report: dict[str, Any] = field(default_factory=dict)
    champion: str = ""
    challenger: str = ""
    experiment: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    """Held-out answers by adapter."""

    @property
    def console(self) -> Console:
        return self.tell.console


def chat_and_rate(turn: Turn) -> None:
    """Simulated users ask and rate through the public API."""
    scale, asked = turn.scale, _endless_questions("users")
    plan = [(f"visitor-{number:04d}", list(islice(asked, scale.questions_each))) for number in range(scale.visitors)]
    turn.tell.say(
        "Simulated users: they like the right fact in one plain, cited sentence, and honesty when nothing fits."
    )
    with turn.tell.bar("visits", len(plan)) as step:
        seen = turn.people.visits(plan, step)
    thumbs = Counter(thumb for _, thumb in seen)
    turn.champion = seen[0][0].adapter if seen else ""
    turn.tell.say(
        f"{len(seen)} answers, {thumbs[True]} thumbs up, {thumbs[False]} down; each kept with adapter, passages, route."
    )
    if not thumbs[False]:
        raise SaidNoError(
            "chat", f"no answer was rated badly, so there is nothing to learn from ({turn.people.tally.failed} failed)."
        )


def judge_pairs(turn: Turn) -> None:
    """Fresh candidates for every rated answer; a rule judges the pairs through the reviewers' own API."""
    wish = {"rated": "any", "limit": 1000, "candidates": turn.scale.candidates, "temperature": 0.9}
    made = turn.api.post("/v1/reviews/refill", wish)
    turn.tell.say(
        f"{made['interactions']} rated answers got {made['candidates']} fresh candidates: {made['pairs']} pairs."
    )
    turn.tell.say(
        "A rule judges them here, by the users' stated preference. A person can do it on the dashboard's Review page."
    )
    known = {question.messages[-1]["content"]: question for question in questions("users")}
    verdicts: Counter[str] = Counter()
    with turn.tell.bar("judgments", made["pairs"]) as step:
        while (pair := turn.api.get("/v1/reviews/next", reviewer=RULE)["pair"]) is not None:
            verdict = (
                _verdict(known[pair["question"]], pair["a"], pair["b"]) if pair["question"] in known else "neither"
            )
            body = {"pair_id": pair["id"], "verdict": verdict, "reviewer": RULE, "source": "rule"}
            turn.api.post("/v1/judgments", body)
            verdicts[verdict] += 1
            step()
    decided = verdicts["a"] + verdicts["b"]
    turn.tell.say(f"{decided} pairs have a chosen and a rejected answer; {sum(verdicts.values()) - decided} were ties.")


def _verdict(question: Question, a: str, b: str) -> str:
    """Only an answer with both halves of the preference wins: what is learnt from is right and well said."""
    for_a, for_b = liking(question, a), liking(question, b)
    if for_a == for_b or max(for_a, for_b) < BOTH:
        return "tie" if for_a else "neither"
    return "a" if for_a > for_b else "b"


def train_challenger(turn: Turn) -> None:
    """A training run by the worker: freeze, train, gate, publish, open the experiment."""
    queued = turn.api.post("/v1/runs", {"requested_by": OPERATOR})
    run = show.follow_run(turn.console, lambda: turn.api.get(f"/v1/runs/{queued['id']}"))
    if run["gate"]:
        turn.console.print(show.gate_table(run["gate"]))
    if run["state"] != "succeeded":
        said = run["gate"]["sentence"] if run["state"] == "refused" and run["gate"] else run["error"]
        raise SaidNoError("train", f"the run {run['state']}: {said}")
    turn.challenger = run["adapter"]
    version = turn.api.get(f"/v1/datasets/{run['dataset']}")
    rows = version["train_rows"] + version["validation_rows"]
    turn.report["dataset"] = {"rows": rows, "hash": version["content_hash"]}
    turn.tell.say(f"{turn.challenger} is published: {rows} pairs of dataset version {version['name']} shaped it.")


def run_experiment(turn: Turn) -> None:
    """New visitors are split between champion and challenger until the verdict is in."""
    running = [row for row in turn.api.get("/v1/experiments")["data"] if row["state"] == "running"]
    if not running:
        raise SaidNoError("experiment", "no experiment is open for the new adapter.")
    turn.champion = running[0]["champion"]
    turn.tell.say("Each user sticks to one arm. The test is valid at every look, so looking often costs nothing.")
    asked, newcomers = _endless_questions("users", seed=1), count()
    while True:
        plan = [
            (f"newcomer-{number:04d}", list(islice(asked, turn.scale.questions_each)))
            for number in islice(newcomers, turn.scale.visitors_per_look)
        ]
        turn.people.visits(plan)
        turn.experiment = turn.api.get(f"/v1/experiments/{running[0]['id']}")
        evidence = turn.experiment["evidence"]
        _draw_look(turn, evidence)
        visitors = int(plan[-1][0].split("-")[1]) + 1
        if evidence["verdict"] != "HOLD" or visitors >= turn.scale.most_visitors:
            break
    turn.report["experiment"] = {
        "verdict": evidence["verdict"],
        "users": sum(evidence["users"][arm] for arm in ("champion", "challenger")),
        "e_value": evidence["e_value"],
    }
    turn.tell.say(evidence["sentence"])
    if evidence["verdict"] != "SHIP":
        raise SaidNoError("experiment", f"the verdict is {evidence['verdict']}: {evidence['sentence']}")


def _draw_look(turn: Turn, evidence: dict[str, Any]) -> None:
    """One line per look: users, the confidence sequence drawn on -1 … +1, the e-value, the sample ratio."""
    users, interval = evidence["users"], evidence["confidence"] or [-1, 1]
    low, high = (max(-1.0, min(1.0, bound)) for bound in interval)
    cells = ["━" if low <= place / 20 <= high else " " for place in range(-20, 21)]
    cells[20] = "┃" if cells[20] == "━" else "│"
    ratio = "ok" if evidence["sample_ratio"]["ok"] else "OFF"
    numbers = f"{users['champion']:>4} + {users['challenger']:<4} users  [{''.join(cells)}]"
    turn.tell.say(f"{numbers}  e-value {evidence['e_value']:<10.3g} sample ratio {ratio}  {evidence['verdict']}")


def measure_arms(turn: Turn) -> None:
    """Held-out prompts to both adapters by name, greedily: for the final table and for telling them apart."""
    heldout = questions("heldout")
    for adapter, title in ((turn.champion, "before"), (turn.challenger, "after")):
        with turn.tell.bar(f"held-out prompts, {title}", len(heldout)) as step:
            turn.answers[adapter] = turn.people.answers(heldout, step, model=adapter, temperature=0)
        turn.report[title] = measured(turn.answers[adapter])


def promote_under_traffic(turn: Turn, *, approve_without_asking: bool) -> None:
    """The operator approves; the alias flips, back, and forth again, while users go on asking."""
    turn.console.print(show.experiment_table(turn.experiment))
    turn.tell.say("The same evidence and both buttons are on the dashboard's Promote page.")
    if not approve_without_asking and not Confirm.ask(f"   Promote {turn.challenger}?", console=turn.console):
        raise SaidNoError("promotion", "the operator said no.")
    probes, greedy = _telling_probes(turn)
    timeline = Timeline({turn.champion, turn.challenger})
    with Traffic(turn.people, probes, threads=6) as traffic:
        time.sleep(turn.scale.swap_seconds)
        approval = {"experiment_id": turn.experiment["id"], "evidence_hash": turn.experiment["evidence_hash"]}
        _flip(turn, traffic, timeline, turn.challenger, {"act": "promote", **approval})
        turn.report["promoted_adapter"] = turn.challenger
        turn.report["rollback_seconds"] = _flip(turn, traffic, timeline, turn.champion, {"act": "roll_back"})
        _flip(turn, traffic, timeline, turn.challenger, {"act": "roll_back", "adapter": turn.challenger})
    wrong = wrong_answers(traffic.answers, timeline, greedy=greedy)
    tally = turn.people.tally
    turn.report["requests"] = {"total": tally.total, "failed": tally.failed, "wrong_adapter": len(wrong)}
    turn.tell.say(
        f"{len(traffic.answers)} answers during the flips; failed: {tally.failed}, by a wrong adapter: {len(wrong)}."
    )
    if wrong or tally.failed:
        raise SaidNoError("promotion", (tally.errors or [f"{wrong[0].adapter} answered when it was not live"])[-1])


def _flip(turn: Turn, traffic: Traffic, timeline: Timeline, to: str, act: dict[str, Any]) -> float:
    """One act on the ledger under traffic; the seconds until the ledger had it."""
    begun = time.monotonic()
    timeline.allow({turn.champion, turn.challenger}, since=begun)
    turn.api.post("/v1/promotions", act | {"actor": OPERATOR, "reason": "demo: the evidence is shown above"})
    done = time.monotonic()
    timeline.allow({to}, since=done)
    heard = traffic.first_answer_from(to, since=begun)
    if heard is None:
        raise SaidNoError("promotion", f"{to} did not answer after the alias was flipped to it.")
    turn.tell.say(
        f"{act['act'].replace('_', ' ')}: live after {done - begun:.3f} s, first new answer after {heard:.3f} s."
    )
    time.sleep(turn.scale.swap_seconds)
    return round(done - begun, 3)


def _telling_probes(turn: Turn) -> tuple[list[Question], dict[tuple[str, str], str]]:
    """Held-out questions that the two adapters answer differently, and what each says."""
    greedy = {
        (answer.question.id, adapter): answer.text for adapter, answers in turn.answers.items() for answer in answers
    }
    probes = [
        question
        for question in questions("heldout")
        if greedy.get((question.id, turn.champion)) != greedy.get((question.id, turn.challenger))
    ]
    return probes[:24] or questions("heldout")[:24], greedy


def show_lineage(turn: Turn) -> None:
    """From one answer of the new adapter back to the pairs that shaped it."""
    answer = turn.answers[turn.challenger][0]
    turn.console.print(show.lineage_table(turn.api.get(f"/v1/lineage/{answer.completion_id}")))


def improvement(turn: Turn) -> dict[str, tuple[float, float, float]]:
    """{measure: (mean change, low, high)} on the same held-out questions."""
    before, after = turn.answers[turn.champion], turn.answers[turn.challenger]
    return {measure.name: paired_difference(before, after, measure) for measure in MEASURES}


def _endless_questions(split: str, *, seed: int = 0) -> Iterator[Question]:
    """The split's questions in a seeded order, again and again in new orders."""
    random, deck = Random(seed), list(questions(split))
    while True:
        random.shuffle(deck)
        yield from deck
