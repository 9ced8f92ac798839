"""What the pages read out of the API's answers: one TypedDict per record, only the fields that are shown.

The records themselves live in flywheel and open a database, which the dashboard never does; the API may send more
fields than stand here. Times are ISO 8601 strings in UTC, as JSON carries them.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

Verdict = Literal["a", "b", "tie", "neither"]


class Caller(TypedDict):
    """Whose key the pages act with; without keys, `name` is none."""

    name: str | None
    tenant: str
    scope: str


class Passage(TypedDict):
    number: int
    document: str
    section: str
    text: str
    cited: NotRequired[bool]


class Interaction(TypedDict):
    id: str
    user: str | None
    alias: str
    adapter: str | None
    experiment_id: str | None
    arm: str | None
    route: str | None
    messages: list[dict[str, Any]]
    passages: list[Passage]
    answer: str | None
    status: str
    asked_at: str


class Pair(TypedDict):
    """A pair as a reviewer sees it: nothing tells which of `a` and `b` was the given answer."""

    id: str
    question: str
    passages: list[Passage]
    a: str
    b: str


class PairCounts(TypedDict):
    waiting: int
    decided: int
    dropped: int


class Review(TypedDict):
    pair: Pair | None
    counts: PairCounts


class Refill(TypedDict):
    interactions: int
    candidates: int
    pairs: int


class Look(TypedDict):
    """One look at the running experiment: the difference of the arms' means, with its confidence sequence."""

    at: str
    users: int
    difference: float
    low: float
    high: float
    e_value: float


class Guardrail(TypedDict):
    name: str
    champion: float | None
    challenger: float | None
    ok: bool
    sentence: str


class Evidence(TypedDict):
    verdict: Literal["HOLD", "SHIP", "ROLLBACK", "INVALID"]
    sentence: str
    users: dict[str, int]
    mean: dict[str, float | None]
    difference: float | None
    confidence: list[float] | None
    e_value: float | None
    """Null, like the difference, before each arm has two rated users."""
    alpha: float
    sample_ratio: dict[str, Any]
    guardrails: list[Guardrail]
    smallest_visible_effect: float | None
    minimum_users: int
    looks: list[Look]


class Approval(TypedDict):
    actor: str
    reason: str
    created_at: str


class Approvals(TypedDict):
    """How many people have to approve, who did for the evidence as it is now, and who is missing, in sentences."""

    needed: int
    given: list[Approval]
    missing: list[str]


class Prompt(TypedDict):
    """A wording of the routes' prompts; the shipped one has no author and no time."""

    version: str
    wording: dict[str, str]
    note: str
    actor: str | None
    created_at: str | None


class Experiment(TypedDict):
    id: str
    alias: str
    champion: str
    challenger: str
    champion_prompt: NotRequired[str | None]
    challenger_prompt: NotRequired[str | None]
    """Null, here and below: the shipped one."""
    prompts: NotRequired[dict[str, Prompt]]
    """By arm. Not in the list of all experiments."""
    mode: Literal["split", "shadow", "interleaved"]
    participants: float
    traffic_share: float
    ramp: list[float]
    step: int
    minimum_users: int
    state: str
    evidence: Evidence | None
    evidence_hash: str | None
    approvals: NotRequired[Approvals]
    """Not in the list of all experiments."""
    created_at: str
    ended_at: str | None


class GateCheck(TypedDict):
    name: str
    passed: bool
    before: float | None
    after: float | None
    interval: list[float] | None
    sentence: str


class GateSample(TypedDict):
    """One gate prompt with the answers of base model (`before`) and adapter (`after`)."""

    question: str
    before: str
    after: str


class Gate(TypedDict):
    passed: bool
    sentence: str
    checks: list[GateCheck]
    prompts: int
    samples: NotRequired[list[GateSample]]
    """Reports from before these were kept have none."""


class Adapter(TypedDict):
    name: str
    parent: str | None
    run_id: str | None
    gate: Gate | None
    created_at: str
    live_for: list[str]
    loaded_on: list[str]


class Promotion(TypedDict):
    id: str
    kind: Literal["promote", "reject", "roll_back", "approve"]
    """`approve`: no row of the ledger yet, another person's approval is needed."""
    adapter: str
    previous: str
    prompt: NotRequired[str | None]
    previous_prompt: NotRequired[str | None]
    experiment_id: str | None
    actor: str
    reason: str
    evidence_hash: str | None
    created_at: str


class Live(TypedDict):
    alias: str
    adapter: str | None
    """Null while the appliance is starting."""
    prompt: NotRequired[str | None]
    epoch: str | None


class Ledger(TypedDict):
    live: Live
    data: list[Promotion]


class LineagePair(TypedDict):
    id: str
    question: str
    chosen: str
    rejected: str
    judgments: list[dict[str, Any]]
    ratings: list[dict[str, Any]]


class Lineage(TypedDict):
    """Of an answer; of an adapter alone, without completion, experiment and promotion."""

    completion: NotRequired[dict[str, Any]]
    prompt: NotRequired[Prompt | None]
    adapter: dict[str, Any] | None
    run: dict[str, Any] | None
    dataset: dict[str, Any] | None
    parents: list[Any]
    pairs: list[LineagePair]
    total: NotRequired[int]
    experiment: NotRequired[dict[str, Any] | None]
    promotion: NotRequired[dict[str, Any] | None]


class Part(TypedDict):
    ready: bool
    detail: str | None


class Readiness(TypedDict):
    ready: bool
    parts: dict[str, Part]
