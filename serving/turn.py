"""Turn: one chat request on its way from the client's body to the closed row of the record.

It gathers what the interaction's row needs, builds what the engine is asked, and makes the row's two halves: `asked`,
and `closed` when it is over. A row that is closed already is never changed (P1 and P2 of the record).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import uuid_utils
from sqlalchemy import Table, bindparam, insert, update

from flywheel.database import now
from flywheel.experiments import CHALLENGER, CHAMPION
from flywheel.interactions import KEPT, OPEN, WITHHELD, Choice, Interaction, Passage
from flywheel.messages import Message, conversation_key
from flywheel.pairs import Candidate
from flywheel.settings import Settings
from flywheel.statistics.assignment import unit_interval
from serving.caps import check_asked
from serving.choices import length_of, words_of, worth_keeping_whole
from serving.idempotency import Claim
from serving.live import LiveAliases, Target
from serving.protocol import ChatBody, Headers, speaker_headers
from serving.statements import Write
from serving.submission import Opening

INTERACTION: Table = Interaction.__table__  # type: ignore[attr-defined]
CANDIDATE: Table = Candidate.__table__  # type: ignore[attr-defined]
ASK = insert(INTERACTION)
OFFER = insert(CANDIDATE)
CLOSING = (
    *("passages", "answer", "answer_words", "choices"),
    *("status", "finish_reason", "error", "prompt_tokens", "completion_tokens"),
    *("first_token_at", "finished_at", "answer_seconds", "first_token_seconds"),
)
CLOSE = (
    update(INTERACTION)
    .where(INTERACTION.c.id == bindparam("completion_id"), INTERACTION.c.status == OPEN)
    .values({name: bindparam(f"new_{name}") for name in CLOSING})
)
SAVE = (
    update(INTERACTION)
    .where(INTERACTION.c.id == bindparam("completion_id"), INTERACTION.c.status == OPEN)
    .values(answer=bindparam("new_answer"))
)
PICKS = "pick_one"
"""A chat's metadata with `"pick_one": "true"`: its client can show two answers and ask which is better."""
OURS = {"model", "messages", "stream", "stream_options", "user", "safety_identifier", "metadata", "store"}
"""Fields of the body that are ours, or that are built anew for the engine."""


@dataclass(slots=True)
class Turn:
    request_id: str
    tenant: str
    view: ChatBody
    target: Target
    user: str | None
    conversation: str
    unit: str
    parameters: dict[str, Any]
    """Everything else of the body, with our defaults: what the engine gets beside the prompt."""
    prompt: list[Message]
    other_prompt: list[Message] | None = None
    """What the one beside or in the shadow is asked, where that is in other words."""
    streamed: bool = False
    kept: bool = True
    """Whether the record may hold its words: `store=false` leaves counters only."""
    handle: str = field(default_factory=lambda: uuid_utils.uuid7().hex)
    asked_at: datetime = field(default_factory=now)
    first_token_at: datetime | None = None
    intent: str | None = None
    route: str | None = None
    passages: list[Passage] = field(default_factory=list)
    prompt_version: str | None = None
    index_version: str | None = None
    router_version: str | None = None
    claim: Claim | None = None
    serving: str | None = None
    """The process that answers."""
    before: str | None = None
    """The turn before it in its conversation, where that is remembered."""
    opening: Opening | None = None
    """The row that is with the writer, and so has to be ended."""
    outcome: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    """As the engine counted them; none until it has."""
    said: Callable[[], list[Choice]] | None = None
    """What left so far, for a row that ends early."""

    @property
    def completion_id(self) -> str:
        """What clients see; vLLM makes the same id of the handle that we send along."""
        return f"chatcmpl-{self.handle}"

    @property
    def tokens(self) -> int:
        """Prompt and answer."""
        return (self.prompt_tokens or 0) + (self.completion_tokens or 0)

    @property
    def routed(self) -> bool:
        """Whether the question goes through intent routing and retrieval."""
        return self.target.routed

    @property
    def other_version(self) -> str | None:
        """The prompt version of the one beside or in the shadow; none of what is not routed."""
        other = self.target.other_wording
        return other.version if other is not None and self.prompt_version is not None else self.prompt_version

    @property
    def known(self) -> bool:
        """Whether its conversation is surely one: strangers who ask the same first question have none."""
        return self.user is not None or bool((self.view.metadata or {}).get("conversation_id"))

    @property
    def wants_usage(self) -> bool:
        return bool(self.view.stream_options and self.view.stream_options.include_usage)

    def whole_body(self, *, seeded: bool) -> dict[str, Any]:
        """The same question for one answer in one piece."""
        body = {**self.engine_body(seeded=seeded), "stream": False, "n": 1}
        body.pop("stream_options", None)
        return body

    def other_body(self, *, seeded: bool) -> dict[str, Any]:
        """The same to the one beside or in the shadow, in the words of their own prompt."""
        adapter = self.target.beside or self.target.shadow
        return self.whole_body(seeded=seeded) | {"model": adapter, "messages": self.other_prompt or self.prompt}

    def engine_body(self, *, seeded: bool) -> dict[str, Any]:
        """What the engine is asked. `seeded=False` drops a seed that sampling would use, which kills vLLM on a CPU."""
        body = {**self.parameters, "model": self.target.adapter, "messages": self.prompt, "stream": self.streamed}
        if self.streamed:
            body["stream_options"] = {"include_usage": True}
        if not seeded and body["temperature"] > 0:
            body.pop("seed", None)
        return body

    def headers(self) -> Headers:
        """Who spoke, for the answer's headers."""
        target = self.target
        return speaker_headers(target.adapter, target.arm, self.route or "plain", target.epoch, self.prompt_version)

    def asked_write(self) -> Write:
        """The row that says this was asked."""
        kept, tags = self.kept, self.view.metadata or {}
        return Write(
            ASK,
            {
                "id": self.completion_id,
                "tenant": self.tenant,
                "request_id": self.request_id,
                "idempotency_key": self.claim.key if self.claim else None,
                "body_hash": self.claim.body_hash if self.claim else None,
                "user": self.user,
                "conversation": self.conversation,
                "unit": self.unit,
                "alias": self.target.alias,
                "adapter": self.target.adapter,
                "epoch": self.target.epoch,
                "experiment_id": self.target.experiment_id,
                "arm": self.target.arm,
                "intent": self.intent,
                "route": self.route or "plain",
                "prompt_version": self.prompt_version,
                "index_version": self.index_version,
                "router_version": self.router_version,
                "serving": self.serving,
                "messages": self.view.messages if kept else [],
                "prompt": self.prompt if kept else None,
                "passages": self.passages if kept else [],
                "parameters": self.parameters if kept else {},
                "client_metadata": {name: str(value) for name, value in tags.items()} if kept else {},
                "content": KEPT if kept else WITHHELD,
                "status": OPEN,
                "asked_at": self.asked_at,
            },
            opens=True,
        )

    def partial_write(self, choices: list[Choice]) -> Write:
        """The words so far, for an open row: what is left of the answer should this process die."""
        return Write(SAVE, {"completion_id": self.completion_id, "answer": storable(words_of(choices))})

    def closed_writes(self, status: str, choices: list[Choice], **values: Any) -> list[Write]:
        """The row's end, and the choices after the first as candidates.

        `values` are error, prompt_tokens, completion_tokens, where known. A row without its words gets only counts.
        """
        self.prompt_tokens, self.completion_tokens = values.get("prompt_tokens"), values.get("completion_tokens")
        error, over, first, kept = values.get("error"), now(), self.first_token_at, self.kept
        if not kept and error:
            error = "It failed; store=false, so the reason, which may hold words, is not kept."
        close = {
            "completion_id": self.completion_id,
            "passages": self.passages if kept else [],
            "answer": storable(words_of(choices)) if choices and kept else None,
            "answer_words": length_of(choices) if choices else None,
            "choices": choices if kept and worth_keeping_whole(choices) else None,
            "status": status,
            "finish_reason": choices[0].finish_reason if choices else None,
            "error": error,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "first_token_at": first,
            "finished_at": over,
            "answer_seconds": (over - self.asked_at).total_seconds() if status == "finished" else None,
            "first_token_seconds": (first - self.asked_at).total_seconds() if first else None,
        }
        others = choices[1:] if status == "finished" and kept else []
        return [Write(CLOSE, close), *(self._candidate(choice) for choice in others if choice.message.get("content"))]

    def _candidate(self, choice: Choice) -> Write:
        """Another choice; the other variant's, where two were asked."""
        beside = self.target.beside
        return Write(
            OFFER,
            {
                "id": f"cand-{self.handle}-{choice.index}",
                "tenant": self.tenant,
                "completion_id": self.completion_id,
                "adapter": beside or self.target.adapter,
                "prompt_version": self.other_version if beside else self.prompt_version,
                "choice": choice.index,
                "text": storable(choice.message["content"]),
                "parameters": self.parameters,
                "created_at": now(),
            },
        )


def storable(text: str) -> str:
    """Without NUL, which PostgreSQL's text cannot hold."""
    return text.replace("\0", "")


def open_turn(
    body: dict[str, Any], view: ChatBody, *, request_id: str, tenant: str, live: LiveAliases, settings: Settings
) -> Turn:
    """Find out who speaks and for whom. Raises NotFoundError, UnavailableError or RequestError; nothing is done yet."""
    user = storable(view.user or view.safety_identifier or "") or None
    named = storable(str((view.metadata or {}).get("conversation_id") or ""))
    conversation = named or conversation_key(view.messages, user=user)
    unit = user or conversation
    if tenant != settings.tenant:
        unit = f"{tenant}/{unit}"  # experiments count users of all tenants, and an ann of each is two users
    wishes = view.metadata or {}
    routed, picks = wishes.get("route") == "auto", wishes.get(PICKS) == "true"
    turn = Turn(
        request_id=request_id,
        tenant=tenant,
        view=view,
        target=live.target(view.model, unit=unit, routed=routed, picks=picks),
        user=user,
        conversation=conversation,
        unit=unit,
        parameters=_parameters(body, view, settings),
        prompt=view.messages,
        streamed=bool(view.stream),
        kept=view.store is not False,
        serving=live.leadership.holder,
    )
    if turn.target.beside is not None:
        turn.target = in_random_order(turn.target, turn.handle)
    return turn


def in_random_order(target: Target, handle: str) -> Target:
    """Which of two variants is shown first: a coin for each completion, since people lean to the first."""
    if target.beside is None or unit_interval(target.experiment_id or "", handle) < 1 / 2:
        return target._replace(arm=CHAMPION)
    mine, other = target.other_wording or target.wording, target.wording
    swapped = target._replace(adapter=target.beside, beside=target.adapter, wording=mine, other_wording=other)
    return swapped._replace(arm=CHALLENGER)


def _parameters(body: dict[str, Any], view: ChatBody, settings: Settings) -> dict[str, Any]:
    serving = settings.serving
    check_asked(view, serving)
    found = {name: value for name, value in body.items() if name not in OURS}
    if view.temperature is None:
        found["temperature"] = serving.temperature
    if view.max_tokens is None and view.max_completion_tokens is None:
        found["max_tokens"] = min(serving.max_tokens, serving.max_answer_tokens or serving.max_tokens)
    return found
