"""A stand-in for the API: the shapes of the real one, records in memory, and a list of what it was sent.

It keeps the rules that the pages rely on: a judgment is idempotent, a promotion is refused (412) for stale evidence, a
blind pair names no origin. Run it alone to look at the pages: `python -m tests.dashboard.fake_api PORT`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.middleware.base import RequestResponseEndpoint

from tests.dashboard.fake_records import (
    CHALLENGER,
    CHAMPION,
    GATE,
    IDENTITY,
    QUESTIONS,
    Json,
    Records,
    interaction,
    prompt,
    time_of,
)


def refusal(status: int, message: str, **more: Any) -> JSONResponse:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": "refused", **more}
    return JSONResponse({"error": error}, status)


def make_app(records: Records) -> FastAPI:
    app = FastAPI()

    @app.middleware("http")
    async def keys(request: Request, call_next: RequestResponseEndpoint) -> Response:
        needed = f"Bearer {records.key}"
        if records.key and request.url.path != "/readyz" and request.headers.get("authorization") != needed:
            return refusal(401, "This API key is not valid.")
        return await call_next(request)

    @app.get("/v1/caller")
    def caller() -> Json:
        return {"object": "caller", "name": "Mira" if records.key else None, "tenant": "default", "scope": "admin"}

    add_chat(app, records)
    add_reviews(app, records)
    add_decisions(app, records)
    add_ancestry(app, records)
    return app


def add_chat(app: FastAPI, records: Records) -> None:
    @app.get("/readyz")
    def readyz() -> JSONResponse:
        parts = {"database": {"ready": True, "detail": None}}
        parts["engine"] = {"ready": records.ready, "detail": None if records.ready else "starting"}  # type: ignore[dict-item]
        return JSONResponse({"ready": records.ready, "parts": parts}, 200 if records.ready else 503)

    @app.get("/v1/models")
    def models() -> Json:
        adapters = [{"id": CHAMPION, "object": "model", "parent": "starter"}]
        return {"data": [*adapters, {"id": "flywheel", "object": "model"}, {"id": "flywheel-plain", "object": "model"}]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Any:
        body = await request.json()
        records.received.append(("chat", body))
        if body["model"] == "no-such":
            return refusal(404, "No alias or adapter is called 'no-such'.")
        return StreamingResponse(
            events(broken=records.break_stream, both=records.two_answers), media_type="text/event-stream"
        )

    @app.get("/v1/interactions")
    def latest(limit: int = 50) -> Json:
        return {"data": records.interactions()[:limit]}

    @app.get("/v1/interactions/{completion_id}")
    def one(completion_id: str) -> Json:
        question, good, _ = QUESTIONS[0]
        return interaction(completion_id, question, good) | {"feedback": [], "pairs": []}

    @app.post("/v1/feedback")
    async def feedback(request: Request) -> Any:
        body = await request.json()
        records.received.append(("feedback", body))
        return {"id": "fb-1", "object": "feedback"}


OTHER = "Twenty cents for each day."


def events(*, broken: bool, both: bool) -> Iterator[str]:
    def event(delta: Json, finish: str | None = None, *, index: int = 0) -> str:
        choice = {"index": index, "delta": delta, "finish_reason": finish}
        return f"data: {json.dumps({'id': 'chatcmpl-new', 'model': 'flywheel', 'choices': [choice]})}\n\n"

    for word in QUESTIONS[0][1].split(" "):
        yield event({"content": word + " "})
    if broken:
        yield f"data: {json.dumps({'error': {'message': 'The engine stopped.', 'code': 'engine_error'}})}\n\n"
    else:
        citation = {"url": "/v1/documents/x", "title": "Library cards – Late fees", "start_index": 15, "end_index": 18}
        yield event({"annotations": [{"type": "url_citation", "url_citation": citation}]}, "stop")
    if both:
        yield event({"content": OTHER}, index=1)
        yield event({}, "stop", index=1)
    yield "data: [DONE]\n\n"


def add_reviews(app: FastAPI, records: Records) -> None:
    @app.get("/v1/reviews/next")
    def next_review(reviewer: str) -> Json:
        pair = next((pair for pair in records.pairs if pair["id"] not in records.judged), None)
        return {"pair": pair, "counts": records.counts()}

    @app.post("/v1/reviews/refill")
    def refill() -> Json:
        records.received.append(("refill", {}))
        number = len(records.pairs) + 1
        records.pairs.append(records.pairs[0] | {"id": f"pair-{number}"})
        return {"interactions": 1, "candidates": 2, "pairs": 1}

    @app.post("/v1/judgments")
    async def judge(request: Request) -> Any:
        body = await request.json()
        records.received.append(("judgment", body))
        earlier = records.judged.setdefault(body["pair_id"], body["verdict"])
        if earlier != body["verdict"]:
            return refusal(409, f"{body['reviewer']} has already judged pair {body['pair_id']} as {earlier!r}.")
        return body | {"id": "jdg-1", "counts": records.counts()}


def add_decisions(app: FastAPI, records: Records) -> None:
    @app.get("/v1/experiments")
    def experiments() -> Json:
        return {"data": [records.experiment, *records.others]}

    @app.get("/v1/experiments/{experiment_id}")
    def experiment(experiment_id: str) -> Json:
        return next(one for one in [records.experiment, *records.others] if one["id"] == experiment_id)

    @app.get("/v1/promotions")
    def promotions() -> Json:
        return {"live": records.live, "data": records.promotions}

    @app.post("/v1/promotions")
    async def promote(request: Request) -> Any:
        body = await request.json()
        records.received.append(("promotion", body))
        if body["act"] == "promote" and body["evidence_hash"] != records.experiment["evidence_hash"]:
            return refusal(412, "Not promoted.", missing=["the approval is for other evidence: look at it again"])
        given = records.experiment["approvals"]
        if body["act"] == "promote" and len(given["given"]) + 1 < given["needed"]:
            given["given"].append({"actor": body["actor"], "reason": body["reason"], "created_at": time_of(60)})
            given["missing"] = [f"somebody else than {body['actor']} is needed"]
            return JSONResponse(
                {"object": "approval", "kind": "approve", "adapter": CHALLENGER, "approvals": given}, 202
            )
        row = {"kind": body["act"], "actor": body["actor"], "reason": body["reason"], "created_at": time_of(60)}
        row |= {"id": f"promo-{len(records.promotions) + 1}", "previous": records.live["adapter"]}
        row |= {
            "adapter": body.get("adapter", records.experiment["challenger"]),
            "evidence_hash": body.get("evidence_hash"),
        }
        row |= {"prompt": records.experiment.get("challenger_prompt") if body["act"] != "roll_back" else None}
        row |= {"experiment_id": body.get("experiment_id")}
        records.promotions.insert(0, row)
        if body["act"] != "roll_back":
            records.experiment["state"] = "promoted" if body["act"] == "promote" else "rejected"
        return row


def add_ancestry(app: FastAPI, records: Records) -> None:
    @app.get("/v1/adapters/{name}")
    def adapter(name: str) -> Json:
        loaded = {"live_for": [], "loaded_on": ["http://127.0.0.1:8100"]}
        record = {"name": name, "parent": CHAMPION, "run_id": "run-2", "gate": GATE, "created_at": time_of(-5)}
        return record | loaded

    @app.get("/v1/adapters/{name}/lineage")
    def adapter_lineage(name: str) -> Json:
        return ancestry(name)

    @app.get("/v1/adapters/{name}/card")
    def card(name: str) -> Any:
        if not records.card:
            return refusal(404, f"Adapter {name} was published without a model card.")
        return {"adapter": name, "text": records.card}

    @app.get("/v1/lineage/{completion_id}")
    def lineage(completion_id: str) -> Any:
        if not completion_id.startswith("chatcmpl-"):
            return refusal(
                404, f"No completion {completion_id!r} is known here. Use the id that the chat answer carried."
            )
        question, good, _ = QUESTIONS[0]
        answer = interaction(completion_id, question, good)
        behind = {"experiment": None, "promotion": records.promotions[-1], "prompt": prompt("p-1", "Be plain.")}
        return ancestry(CHAMPION) | {"completion": answer, **behind}

    @app.get("/v1/lineage")
    def user_lineage(user: str) -> Any:
        if user != "user-7":
            return refusal(404, f"Nobody called {user!r} has asked or rated anything here.")
        steps = {"interactions": [{"id": "chatcmpl-0"}], "feedback": [{"completion_id": "chatcmpl-0"}]}
        steps |= {"pairs": [{"id": "pair-1"}], "adapters": [{"name": CHAMPION}], "promotions": []}
        return {"user": user, "counts": {step: len(rows) for step, rows in steps.items()}, **steps}


def ancestry(adapter: str) -> Json:
    """What an adapter was made of."""
    question, good, bad = QUESTIONS[0]
    judged = [{"reviewer": "Mira", "source": "person", "verdict": "a"}]
    rated = [{"score": 0.0, "actor": "user-7", "source": "user"}]
    pair = {"id": "pair-1", "question": question, "chosen": good, "rejected": bad, "judgments": judged}
    record = {"name": adapter, "parent": IDENTITY, "base_model_hash": "77aa", "created_at": time_of(-700)}
    return {
        "adapter": record | {"recipe": {"name": "dpo-sft"}},
        "run": {"id": "run-1", "state": "succeeded", "requested_by": "Ada", "created_at": time_of(-720)},
        "dataset": {"name": "ds-1234567890ab", "train_rows": 270, "validation_rows": 30},
        "parents": [],
        "pairs": [pair | {"completion_id": "chatcmpl-0", "ratings": rated}],
        "total": 300,
    }


if __name__ == "__main__":
    uvicorn.run(make_app(Records()), port=int(sys.argv[1]), log_level="warning")
