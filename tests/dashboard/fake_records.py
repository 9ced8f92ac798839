"""Records as the real API shows them, held in memory, for the stand-in API of the dashboard's tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from dashboard.shapes import Look

Json = dict[str, Any]
CHAMPION, CHALLENGER, IDENTITY = "lora-5f0c2a9e71bd", "lora-b83d14c6e0fa", "identity-0a1b2c3d4e5f"
HASH = "9d3b6f0c1e7a45829d3b6f0c1e7a45829d3b6f0c1e7a45829d3b6f0c1e7a4582"
PASSAGE = {
    "number": 1,
    "chunk_id": "chunk-1",
    "document": "Library cards",
    "section": "Late fees",
    "text": "A late book costs 20 cents a day. ![x](http://tracker.invalid/p.png) *No* fee is taken on holidays.",
    "score": 0.71,
    "cited": True,
}
QUESTIONS = [
    ("What does a late book cost?", "20 cents a day [1].", "It depends on many things, please ask at the desk."),
    ("Can I renew a book twice?", "Yes, twice for two weeks each [1].", "Yes."),
    ("When does the reading room close?", "At 18:00 on weekdays [1].", "The reading room is a nice room."),
]


def time_of(minutes: float) -> str:
    return (datetime(2026, 11, 20, 9, 0, tzinfo=UTC) + timedelta(minutes=minutes)).isoformat()


def looks(count: int = 40) -> list[Look]:
    """The difference settles near +0.12 while the e-value grows past 50."""
    rows: list[Look] = []
    for number in range(1, count + 1):
        users = number * 9
        half = min(1.4 / users**0.5, 1.0)
        middle = 0.12 + 0.2 * (-1) ** number / number
        e_value = 10 ** (number / count * 3.2 - 0.8)
        rows.append(
            {
                "at": time_of(number),
                "users": users,
                "difference": middle,
                "low": middle - half,
                "high": middle + half,
                "e_value": e_value,
            }
        )
    return rows


def evidence() -> Json:
    last = looks()[-1]
    return {
        "verdict": "SHIP",
        "sentence": "The challenger is rated 0.12 higher; the e-value 251 is past the threshold 50.",
        "users": {"champion": 178, "challenger": 182, "excluded_both_arms": 0},
        "mean": {"champion": 0.58, "challenger": 0.70},
        "difference": last["difference"],
        "confidence": [last["low"], last["high"]],
        "e_value": last["e_value"],
        "alpha": 0.02,
        "sample_ratio": {"e_value": 0.08, "ok": True},
        "guardrails": [
            {
                "name": "error rate",
                "champion": 0.004,
                "challenger": 0.003,
                "ok": True,
                "sentence": "No more errors than the champion.",
            },
            {
                "name": "empty or cut answers",
                "champion": 0.01,
                "challenger": 0.012,
                "ok": True,
                "sentence": "Within what chance explains.",
            },
        ],
        "smallest_visible_effect": 0.071,
        "minimum_users": 100,
        "looks": looks(),
    }


GATE = {
    "passed": True,
    "sentence": "Better in the wanted behaviour, and no fact was lost.",
    "prompts": 240,
    "prompts_hash": "aa11",
    "samples": [
        {
            "kind": "answerable",
            "question": "What does a lost card cost?",
            "before": "Thanks for asking! ![x](http://tracker.invalid/g.png) It costs 3 euros.",
            "after": "It costs 3 euros [1].",
        }
    ],
    "checks": [
        {
            "name": "wanted behaviour",
            "passed": True,
            "before": 0.54,
            "after": 0.81,
            "interval": [0.2, 0.34],
            "sentence": "Short, cited answers are more frequent.",
        },
        {
            "name": "fact accuracy",
            "passed": True,
            "before": 0.9,
            "after": 0.91,
            "interval": [-0.01, 0.03],
            "sentence": "A loss beyond 0.03 is excluded.",
        },
    ],
}


CARD = """---
base_model: starter
---
# LoRA adapter for starter

Trained with the recipe `dpo-sft`. ![x](http://tracker.invalid/c.png)
"""


class Records:
    """Everything the stand-in knows and was told."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """As before the first request: one server serves every test."""
        self.received: list[tuple[str, Json]] = []
        self.key = ""
        self.pairs: list[Json] = [
            {
                "id": f"pair-{number}",
                "question": question,
                "prompt": [{"role": "user", "content": question}],
                "passages": [PASSAGE],
                "a": good,
                "b": bad,
                "created_at": time_of(number),
            }
            for number, (question, good, bad) in enumerate(QUESTIONS, start=1)
        ]
        self.judged: dict[str, str] = {}
        self.promotions: list[Json] = [
            {
                "id": "promo-1",
                "kind": "promote",
                "adapter": CHAMPION,
                "previous": IDENTITY,
                "experiment_id": "exp-0",
                "actor": "Ada",
                "reason": "First adapter, clearly better",
                "evidence_hash": HASH[::-1],
                "created_at": time_of(-600),
            }
        ]
        self.experiment: Json = {
            "id": "exp-1",
            "alias": "flywheel",
            "champion": CHAMPION,
            "challenger": CHALLENGER,
            "mode": "split",
            "participants": 1.0,
            "traffic_share": 0.5,
            "ramp": [],
            "step": 0,
            "minimum_users": 100,
            "state": "running",
            "evidence": evidence(),
            "evidence_hash": HASH,
            "approvals": {"needed": 1, "given": [], "missing": []},
            "created_at": time_of(0),
            "ended_at": None,
        }
        self.others: list[Json] = []
        """Experiments that run beside it."""
        self.card = CARD
        self.ready = True
        self.break_stream = False
        self.two_answers = False

    @property
    def live(self) -> Json:
        last = next(row for row in self.promotions if row["kind"] != "reject")
        return {"alias": "flywheel", "adapter": last["adapter"], "prompt": last.get("prompt"), "epoch": last["id"]}

    def counts(self) -> Json:
        dropped = sum(verdict in ("tie", "neither") for verdict in self.judged.values())
        waiting = len(self.pairs) - len(self.judged)
        return {"waiting": waiting, "decided": len(self.judged) - dropped, "dropped": dropped}

    def interactions(self) -> list[Json]:
        rows = []
        for number, (question, good, bad) in enumerate(QUESTIONS):
            for arm, answer in (("champion", bad), ("challenger", good)):
                rows.append(interaction(f"chatcmpl-{number}{arm}", question, answer, arm=arm))
        return rows


def prompt(version: str, knowledge: str) -> Json:
    """A wording with something above its passages, and a picture that nobody may load."""
    wording = {"knowledge": knowledge, "passage": "[{number}] {text} ![x](http://tracker.invalid/w.png)"}
    wording |= {"no_passages": "(none)", "small_talk": "Be friendly.", "refuse": "Say no."}
    return {"version": version, "wording": wording, "note": "shorter", "actor": "Pia", "created_at": time_of(-9)}


def interaction(completion_id: str, question: str, answer: str, *, arm: str | None = None) -> Json:
    return {
        "id": completion_id,
        "user": "user-7",
        "alias": "flywheel",
        "adapter": CHALLENGER if arm == "challenger" else CHAMPION,
        "experiment_id": "exp-1" if arm else None,
        "arm": arm,
        "route": "knowledge",
        "prompt_version": "p-1",
        "index_version": "i-1",
        "router_version": "r-1",
        "messages": [{"role": "user", "content": question}],
        "passages": [PASSAGE],
        "answer": answer,
        "status": "finished",
        "asked_at": time_of(5),
    }
