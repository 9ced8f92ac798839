"""vLLM over HTTP, and which replica answers next. Nothing else of ours speaks to an engine.

Invariants: an adapter's name is never sent to a replica that reconcile has not marked ready for it (vLLM leaks a lock
for each unknown name); what vLLM answers with a status below 500 is the caller's to read, everything worse is an
UnavailableError. Starting and stopping engines is not done here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from flywheel.errors import UnavailableError
from serving.upstream import Asked, Connection, Upstream

QUICK_SECONDS = 5.0
LOADING_SECONDS = 120.0
SILENCE_SECONDS = 120.0


class LostEngineError(UnavailableError):
    """The connection to a replica failed before it answered: another may be asked instead."""


class LostAdapterError(LostEngineError):
    """A replica answers, and does not have the adapter. It is not asked again: vLLM leaks a lock each time."""


class Engine:
    """One vLLM replica."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.in_flight = 0
        self._upstream = Upstream(self.url)

    def close(self) -> None:
        """Close the connections that are idle."""
        self._upstream.close()

    async def healthy(self) -> bool:
        """Whether it answers at all."""
        try:
            status, _ = await self._ask("GET", "/health", None, within=QUICK_SECONDS)
        except UnavailableError:
            return False
        return status == 200

    async def metrics(self) -> bytes:
        """Its own figures, as Prometheus reads them. Raises UnavailableError."""
        try:
            async with self._upstream.ask("GET", "/metrics", silence=QUICK_SECONDS, within=QUICK_SECONDS) as answer:
                return await answer.read()
        except OSError as error:
            raise UnavailableError(f"The engine at {self.url} does not answer ({error_name(error)}).") from error

    async def refuses(self) -> bool:
        """Whether nobody listens on its port. A busy engine takes the connection, or lets it wait."""
        return await self._upstream.refuses()

    async def loaded(self) -> dict[str, str]:
        """The adapters it holds, and the folder each was loaded from. Raises UnavailableError."""
        status, answer = await self._ask("GET", "/v1/models", None, within=QUICK_SECONDS)
        if status != 200:
            raise UnavailableError(f"The engine at {self.url} does not list its adapters: {error_text(answer)}.")
        return {card["id"]: card["root"] for card in answer["data"] if card.get("parent")}

    async def own_model(self) -> tuple[str, str]:
        """The name under which it serves its own weights, and the folder they are from. Raises UnavailableError."""
        status, answer = await self._ask("GET", "/v1/models", None, within=QUICK_SECONDS)
        own = next((card for card in answer.get("data", []) if not card.get("parent")), None)
        if status != 200 or own is None:
            raise UnavailableError(f"The engine at {self.url} does not say what it serves: {error_text(answer)}.")
        return own["id"], own["root"]

    async def load(self, name: str, folder: Path) -> None:
        """Load an adapter under its name; loaded already is success. Raises UnavailableError with vLLM's words."""
        body = {"lora_name": name, "lora_path": str(folder)}
        status, answer = await self._ask("POST", "/v1/load_lora_adapter", body, within=LOADING_SECONDS)
        if status != 200 and "already been loaded" not in error_text(answer):
            raise UnavailableError(f"The engine at {self.url} does not load {name}: {error_text(answer)}.")

    async def unload(self, name: str) -> None:
        """Forget an adapter; not loaded is success. Raises UnavailableError with vLLM's words."""
        body = {"lora_name": name}
        status, answer = await self._ask("POST", "/v1/unload_lora_adapter", body, within=QUICK_SECONDS)
        if status not in (200, 404) and "cannot be found" not in error_text(answer):
            raise UnavailableError(f"The engine at {self.url} does not unload {name}: {error_text(answer)}.")

    async def tokenize(self, text: str) -> list[int]:
        """The token ids of a bare text, without special tokens."""
        _, answer = await self._must("/tokenize", {"prompt": text, "add_special_tokens": False})
        return list(answer["tokens"])

    async def count_tokens(self, chat: dict[str, Any]) -> int:
        """How many tokens a chat's prompt has. Raises UnavailableError, also with the engine's refusal of it."""
        _, answer = await self._must("/tokenize", chat)
        return int(answer["count"])

    async def score(self, name: str, token_ids: list[int]) -> list[float]:
        """The log-probability of each token after the first, given those before it."""
        body = {"model": name, "prompt": token_ids, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        _, answer = await self._must("/v1/completions", body)
        found = answer["choices"][0]["prompt_logprobs"]
        return [float(found[place][str(token_ids[place])]["logprob"]) for place in range(1, len(token_ids))]

    async def complete(self, body: dict[str, Any], *, request_id: str | None = None) -> dict[str, Any]:
        """One whole chat completion. Raises UnavailableError for everything but success."""
        headers = {"x-request-id": request_id} if request_id else {}
        _, answer = await self._must("/v1/chat/completions", body, headers)
        return answer

    def stream(self, body: dict[str, Any], *, request_id: str) -> Answering:
        """A chat completion whose answer is still to be read; leaving the block early frees the engine.

        vLLM makes the completion's id of `request_id`: `chatcmpl-` and then the request id. Raises LostEngineError when
        nothing was answered at all, UnavailableError when the answer broke off.
        """
        path, headers = "/v1/chat/completions", {"x-request-id": request_id}
        return Answering(self, self._upstream.ask("POST", path, orjson.dumps(body), headers, silence=SILENCE_SECONDS))

    async def _must(
        self, path: str, body: dict[str, Any], headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        status, answer = await self._ask("POST", path, body, headers)
        if status != 200:
            raise UnavailableError(f"The engine at {self.url} refused {path}: {error_text(answer)}.")
        return status, answer

    async def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        headers: Mapping[str, str] | None = None,
        *,
        within: float | None = None,
    ) -> tuple[int, dict[str, Any]]:
        self.in_flight += 1
        try:
            data = b"" if body is None else orjson.dumps(body)
            async with self._upstream.ask(
                method, path, data, headers, silence=SILENCE_SECONDS, within=within
            ) as answer:
                return answer.status, read_json(await answer.read())
        except OSError as error:
            raise UnavailableError(f"The engine at {self.url} does not answer ({error_name(error)}).") from error
        finally:
            self.in_flight -= 1


class Answering:
    """A chat completion that is being answered: `async with`."""

    __slots__ = ("_asked", "_engine")

    def __init__(self, engine: Engine, asked: Asked) -> None:
        self._engine, self._asked = engine, asked

    async def __aenter__(self) -> Connection:
        self._engine.in_flight += 1
        try:
            return await self._asked.__aenter__()
        except BaseException as error:
            self._engine.in_flight -= 1
            if isinstance(error, OSError):
                slow = isinstance(error, TimeoutError)  # a busy engine, not a lost one
                raise _stopped(error, UnavailableError if slow else LostEngineError) from error
            raise

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._engine.in_flight -= 1
        await self._asked.__aexit__(kind, error, trace)
        if isinstance(error, OSError):
            raise _stopped(error, UnavailableError) from error


def _stopped(error: OSError, kind: type[UnavailableError]) -> UnavailableError:
    return kind(f"The engine stopped answering ({error_name(error)}). Try again.")


class EnginePool:
    """Every replica, and which adapters each may be asked for. One of `merged` weights comes before all others."""

    def __init__(self, engines: list[Engine], merged: Sequence[Engine] = ()) -> None:
        self.engines, self.merged = engines, merged
        self.all = [*merged, *engines]
        self._ready: dict[str, frozenset[str]] = {engine.url: frozenset() for engine in self.all}
        self.changes = 0
        """How often it was marked who is ready for what: what was worked out of it holds while this stands."""

    def close(self) -> None:
        """Close the connections that are idle."""
        for engine in self.all:
            engine.close()

    def mark(self, engine: Engine, adapters: Collection[str]) -> None:
        """This replica is ready for exactly these adapters; an empty set means not ready."""
        self._ready[engine.url] = frozenset(adapters)
        self.changes += 1

    def ready_for(self, engine: Engine) -> frozenset[str]:
        """The adapters this replica was last marked ready for."""
        return self._ready[engine.url]

    def instead_of(self, engine: Engine, adapter: str) -> Engine | None:
        """Another replica that is ready; the failed one is then not asked again until reconcile has looked at it."""
        if not any(adapter in self._ready[other.url] for other in self.all if other is not engine):
            return None
        self.mark(engine, self._ready[engine.url] - {adapter})
        return self.engine_for(adapter)

    def engine_for(self, adapter: str) -> Engine:
        """The least busy replica that is ready for `adapter`. Raises UnavailableError."""
        for group in (self.merged, self.engines):
            ready = [engine for engine in group if adapter in self._ready[engine.url]]
            if ready:
                return min(ready, key=lambda engine: engine.in_flight)
        raise UnavailableError(f"No engine is ready for {adapter} yet. Try again in a moment.")


def read_json(raw: bytes) -> dict[str, Any]:
    """vLLM answers some acts with plain text: that becomes {"message": text}."""
    try:
        answer = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return {"message": raw.decode(errors="replace")}
    return answer if isinstance(answer, dict) else {"data": answer}


def error_text(answer: Mapping[str, Any]) -> str:
    """vLLM's own words for what went wrong, on one line."""
    error = answer.get("error", answer)
    message = error.get("message", "") if isinstance(error, Mapping) else error
    return " ".join(str(message).split()) or "no reason given"


def error_name(error: BaseException) -> str:
    return "it took too long" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
