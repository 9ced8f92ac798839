"""The dashboard's only way to the records: a client of the HTTP API.

Every failure is one of flywheel's errors with one sentence in it: no connection, a timeout, an answer that is no JSON,
or the API's own refusal (whose sentence is kept as it is). Nothing is retried, and nothing is cached but the
connection.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import quote

import httpx

from dashboard.shapes import (
    Adapter,
    Caller,
    Experiment,
    Interaction,
    Ledger,
    Lineage,
    Promotion,
    Readiness,
    Refill,
    Review,
    Verdict,
)
from dashboard.stream import Answer, deltas
from flywheel.errors import (
    AccessError,
    ConflictError,
    EvidenceError,
    FlywheelError,
    ForbiddenError,
    NotFoundError,
    UnavailableError,
    UserError,
)

REFUSALS: dict[int, type[FlywheelError]] = {
    401: AccessError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    503: UnavailableError,
}


class Api:
    def __init__(self, url: str, *, key: str = "", timeout_seconds: float = 10, read_seconds: float = 60) -> None:
        self.url = url
        timeout = httpx.Timeout(timeout_seconds, read=read_seconds)  # a refill asks the engine before it answers
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, timeout=timeout, headers=headers, trust_env=False)

    def close(self) -> None:
        self._http.close()

    def readiness(self) -> Readiness:
        return cast(Readiness, self._call("GET", "/readyz", also_fine=503))

    def caller(self) -> Caller:
        """Whose key this is. Raises AccessError when the API does not know it."""
        return cast(Caller, self._call("GET", "/v1/caller"))

    def aliases(self) -> list[str]:
        """What a chat may ask for: aliases first, then adapters."""
        models = self._call("GET", "/v1/models")["data"]
        return [model["id"] for model in sorted(models, key=lambda model: bool(model.get("parent")))]

    def ask(self, messages: list[dict[str, str]], *, alias: str, user: str, conversation: str) -> Iterator[Answer]:
        """The answer as it grows. Raises also when the engine fails half-way."""
        body: dict[str, Any] = {"model": alias, "messages": messages, "stream": True}
        body |= {"metadata": {"conversation_id": conversation, "pick_one": "true"}, **_named(user)}
        try:
            with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.is_error:
                    response.read()
                    raise _refusal(response)
                yield from deltas(response.iter_lines())
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def interaction(self, completion_id: str) -> Interaction:
        answer = self._call("GET", f"/v1/interactions/{completion_id}")
        return cast(Interaction, answer.get("interaction", answer))

    def latest_interactions(self, *, limit: int) -> list[Interaction]:
        return cast(list[Interaction], self._call("GET", "/v1/interactions", params={"limit": limit})["data"])

    def give_feedback(self, completion_id: str, *, user: str, **said: Any) -> None:
        """`said` is any of value (bool or 1 to 5), comment, correction; or name "pick" and the choice."""
        self._call("POST", "/v1/feedback", json={"completion_id": completion_id, **_named(user), **said})

    def next_review(self, reviewer: str) -> Review:
        """The pair this reviewer holds; the same one until they have judged it."""
        return cast(Review, self._call("GET", "/v1/reviews/next", params={"reviewer": reviewer}))

    def judge(self, pair_id: str, verdict: Verdict, *, reviewer: str) -> None:
        body = {"pair_id": pair_id, "verdict": verdict, "reviewer": reviewer, "source": "person"}
        self._call("POST", "/v1/judgments", json=body)

    def refill_reviews(self) -> Refill:
        return cast(Refill, self._call("POST", "/v1/reviews/refill", json={}))

    def experiments(self) -> list[Experiment]:
        return cast(list[Experiment], self._call("GET", "/v1/experiments")["data"])

    def experiment(self, experiment_id: str) -> Experiment:
        answer = self._call("GET", f"/v1/experiments/{experiment_id}")
        return cast(Experiment, answer.get("experiment", answer))

    def adapter(self, name: str) -> Adapter:
        answer = self._call("GET", f"/v1/adapters/{name}")
        return cast(Adapter, answer.get("adapter", answer))

    def ledger(self) -> Ledger:
        return cast(Ledger, self._call("GET", "/v1/promotions"))

    def decide(self, act: str, *, actor: str, reason: str, **bound_to: Any) -> Promotion:
        """promote, reject or roll_back; `bound_to` names the experiment and evidence, or the rollback's adapter."""
        body = {"act": act, "actor": actor, "reason": reason, **bound_to}
        return cast(Promotion, self._call("POST", "/v1/promotions", json=body))

    def lineage(self, completion_id: str) -> Lineage:
        return cast(Lineage, self._call("GET", f"/v1/lineage/{quote(completion_id, safe='')}"))

    def lineage_of_adapter(self, name: str) -> Lineage:
        return cast(Lineage, self._call("GET", f"/v1/adapters/{name}/lineage"))

    def lineage_of_user(self, user: str) -> dict[str, Any]:
        """{"user", "counts": {step: number}, step: [newest rows]}: everything made from their words."""
        return self._call("GET", "/v1/lineage", params={"user": user})

    def model_card(self, name: str) -> str:
        """An adapter's. Raises NotFoundError where it has none."""
        return str(self._call("GET", f"/v1/adapters/{name}/card")["text"])

    def _call(self, method: str, path: str, *, also_fine: int | None = None, **request: Any) -> dict[str, Any]:
        try:
            response = self._http.request(method, path, **request)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        if response.is_error and response.status_code != also_fine:
            raise _refusal(response)
        return cast(dict[str, Any], _json(response))

    def _unreachable(self, error: httpx.TransportError) -> UnavailableError:
        if isinstance(error, httpx.TimeoutException):
            return UnavailableError(f"The API on {self.url} took too long to answer. Try again in a moment.")
        return UnavailableError(
            f"The API on {self.url} cannot be reached. Start it with `flywheel up`, "
            "or tell the dashboard where it is: dashboard.api_url in flywheel.toml."
        )


def _named(user: str) -> dict[str, str]:
    return {"user": user} if user else {}


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError as error:
        raise FlywheelError(
            f"{response.url} answered {response.status_code} without JSON: "
            "is something else than Flywheel's API listening there?"
        ) from error


def _refusal(response: httpx.Response) -> FlywheelError:
    body = _json(response)
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return FlywheelError(f"{response.url} answered {response.status_code} without saying why.")
    if error.get("missing"):
        return EvidenceError([str(sentence) for sentence in error["missing"]])
    kind = REFUSALS.get(response.status_code, UserError if response.status_code < 500 else FlywheelError)
    return kind(str(error.get("message") or f"The API answered {response.status_code}."))
