"""Keys: how they are made, kept and ended, whose name stands under an act, and how much they allow."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import httpx
import openai
import pytest
from sqlalchemy import update
from sqlmodel import col

from flywheel.database import now, reading, writing
from flywheel.keys import ApiKey, key_of, secret_hash, tenant_keys
from tests.conftest import Served, wait_until
from tests.serving.conftest import Make, bearer

HELLO = [{"role": "user", "content": "hello"}]


def test_a_revoked_key_ends_within_a_second(served: Served, api: httpx.Client, plain: httpx.Client) -> None:
    made = api.post("/v1/keys", json={"name": "Mira", "scope": "chat", "actor": "olga"}).json()
    headers = bearer(made["secret"])
    assert plain.get("/v1/models", headers=headers).status_code == 200
    begun = time.monotonic()
    gone = api.post(f"/v1/keys/{made['prefix']}/revoke", json={"actor": "olga"}).json()
    assert gone["state"] == "revoked"
    wait_until(lambda: plain.get("/v1/models", headers=headers).status_code == 401, seconds=1)
    assert time.monotonic() - begun < 1
    again = api.post(f"/v1/keys/{made['id']}/revoke", json={"actor": "olga"})
    assert again.status_code == 409
    acts = [(row["act"], row["subject"]) for row in api.get("/v1/audit").json()["data"]]
    assert ("revoke_key", made["id"]) in acts
    assert ("create_key", made["id"]) in acts


def test_many_requests_with_one_key_read_it_once(served: Served, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    ring, secret = served.app.appliance.keys, make("chat")
    read, reads = ring._read, list[str]()

    def counted(hashed: str) -> object:
        reads.append(hashed)
        time.sleep(0.2)
        return read(hashed)

    async def ask() -> list[int]:
        async with httpx.AsyncClient(base_url=served.url, headers=bearer(secret)) as client:
            return [one.status_code for one in await asyncio.gather(*(client.get("/v1/models") for _ in range(10)))]

    monkeypatch.setattr(ring, "_read", counted)
    assert asyncio.run(ask()) == [200] * 10
    assert reads == [secret_hash(secret)]


def test_an_ended_key_is_refused(plain: httpx.Client, make: Make) -> None:
    assert plain.get("/v1/models", headers=bearer(make("chat", days=-1))).status_code == 401


def test_secrets_are_kept_nowhere_and_use_is_noted(served: Served, api: httpx.Client) -> None:
    made = api.post("/v1/keys", json={"name": "Noor", "actor": "olga"}).json()
    httpx.get(f"{served.url}/v1/models", headers=bearer(made["secret"])).raise_for_status()
    wait_until(lambda: used_at(served, made["secret"]) is not None, seconds=10)
    shown = next(row for row in api.get("/v1/keys").json()["data"] if row["id"] == made["id"])
    assert "secret" not in shown
    assert "secret_hash" not in shown
    assert shown["last_used_at"] is not None
    assert made["secret"].startswith(shown["prefix"])
    with reading(served.database) as session:
        key = next(row for row in tenant_keys(session, tenant="default") if row.id == made["id"])
    assert made["secret"] not in str(key.model_dump())
    assert made["secret"].encode() not in (served.settings.home / "flywheel.db").read_bytes()


def test_use_is_noted_again_after_a_minute(served: Served, plain: httpx.Client, make: Make) -> None:
    secret = make("chat")
    long_ago = now() - timedelta(minutes=2)
    with writing(served.database) as session:
        session.execute(
            update(ApiKey).where(col(ApiKey.secret_hash) == secret_hash(secret)).values(last_used_at=long_ago)
        )
    plain.get("/v1/models", headers=bearer(secret)).raise_for_status()
    wait_until(lambda: (used_at(served, secret) or long_ago) > long_ago, seconds=10)


def test_a_key_works_while_its_use_cannot_be_noted(served: Served, plain: httpx.Client, make: Make) -> None:
    secret = make("chat")
    with served.database.connect().execution_options(sqlite_immediate=True) as other:
        other.exec_driver_sql("SELECT 1")  # nobody else can write
        answer = plain.get("/v1/models", headers=bearer(secret))
    assert answer.status_code == 200
    assert answer.elapsed.total_seconds() < 3
    wait_until(lambda: used_at(served, secret) is not None, seconds=10)


def used_at(served: Served, secret: str) -> datetime | None:
    with reading(served.database) as session:
        key = key_of(session, secret_hash(secret))
    assert key is not None
    return key.last_used_at


def test_a_request_does_not_wait_for_a_database_that_tells_nothing(
    served: Served, plain: httpx.Client, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, again = make("chat"), threading.Event()
    with monkeypatch.context() as silent:
        silent.setattr("serving.access.PATIENCE_SECONDS", 0.2)
        silent.setattr("serving.access.key_of", lambda *_: again.wait(30) and None)
        refused = plain.get("/v1/models", headers=bearer(secret))
        again.set()
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert "API keys cannot be checked" in refused.json()["error"]["message"]
    wait_until(lambda: plain.get("/v1/models", headers=bearer(secret)).status_code == 200, seconds=10)


def test_an_admin_of_another_tenant_makes_keys_for_their_own_only(
    speak: Callable[[str], httpx.Client], make: Make
) -> None:
    admin = speak(make("admin", tenant="red"))
    assert admin.post("/v1/keys", json={"name": "x", "actor": "y", "tenant": "blue"}).status_code == 403
    assert admin.post("/v1/keys", json={"name": "x", "actor": "y"}).json()["tenant"] == "red"
    shown = admin.get("/v1/keys").json()["data"]
    assert {row["tenant"] for row in shown} == {"red"}
    blue = make("chat", tenant="blue")
    assert admin.post(f"/v1/keys/{blue[:12]}/revoke", json={"actor": "y"}).status_code == 404
    assert speak(blue).get("/v1/models").status_code == 200


def test_an_act_is_its_keys_whatever_name_the_request_says(
    speak: Callable[[str], httpx.Client], make: Make, api: httpx.Client
) -> None:
    """`somebody` holds the key; olga is a name that anybody could write."""
    operator, told = speak(make("operate")), []
    for claimed in ({}, {"requested_by": "somebody"}, {"requested_by": "olga"}, {"requested_by": "olga (admin)"}):
        run = operator.post("/v1/runs", json=claimed).json()
        told.append(run["requested_by"])
        operator.post(f"/v1/runs/{run['id']}/cancel", json={"actor": "olga"}).raise_for_status()
    assert told == ["somebody", "somebody", "olga (somebody)", "olga (admin) (somebody)"]
    acts = [row for row in api.get("/v1/audit").json()["data"] if row["act"] in ("queue_run", "cancel_run")]
    assert {row["actor"] for row in acts} == {*told, "olga (somebody)"}
    assert api.post("/v1/runs", json={"requested_by": "olga"}).json()["requested_by"] == "olga"  # this machine's own


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/runs", {"requested_by": " "}), ("/v1/promotions", {"act": "reject"}), ("/v1/keys", {"name": "x"})],
)
def test_an_act_with_the_machines_own_key_names_somebody(api: httpx.Client, path: str, body: dict[str, str]) -> None:
    refused = api.post(path, json=body)
    assert (refused.status_code, refused.json()["error"]["message"]) == (400, "actor: say who acts.")


def test_putting_in_taking_out_and_keys_are_audited_under_the_keys_name(
    speak: Callable[[str], httpx.Client], make: Make, api: httpx.Client
) -> None:
    admin, olga = speak(make("admin")), {"actor": "olga"}
    done = admin.post("/v1/chat/completions", json={"model": "flywheel-plain", "messages": HELLO}).json()
    admin.post("/v1/documents", json={"title": "Door", "text": "It opens at nine."} | olga).raise_for_status()
    admin.delete("/v1/documents/Door", params=olga).raise_for_status()
    made = admin.post("/v1/keys", json={"name": "Mira"} | olga).json()
    admin.post(f"/v1/keys/{made['id']}/revoke", json=olga).raise_for_status()
    admin.delete(f"/v1/chat/completions/{done['id']}").raise_for_status()
    acts = [(row["act"], row["actor"]) for row in api.get("/v1/audit", params={"limit": 5}).json()["data"]]
    assert acts == [
        ("delete_completion", "somebody"),
        ("revoke_key", "olga (somebody)"),
        ("create_key", "olga (somebody)"),
        ("remove_document", "olga (somebody)"),
        ("ingest", "olga (somebody)"),
    ]


@pytest.mark.parametrize("name", ["this machine", " this machine "])
def test_nobody_is_given_the_name_of_the_machines_own_keys(api: httpx.Client, name: str) -> None:
    refused = api.post("/v1/keys", json={"name": name, "actor": "olga"})
    assert refused.status_code == 400
    assert "Give it another one" in refused.json()["error"]["message"]


def test_the_machines_own_keys_are_shown_to_nobody(api: httpx.Client) -> None:
    assert "this machine" not in {row["name"] for row in api.get("/v1/keys").json()["data"]}
    assert api.get("/v1/caller").json()["name"] is None


def test_a_key_has_the_limits_and_the_days_that_were_asked_for(api: httpx.Client, plain: httpx.Client) -> None:
    asked = {"name": "Kim", "actor": "olga", "days": 2, "limits": {"requests_per_minute": 1}}
    made = api.post("/v1/keys", json=asked).json()
    ends, begins = (datetime.fromisoformat(made[name]) for name in ("expires_at", "created_at"))
    assert timedelta(days=2) <= ends - begins < timedelta(days=2, minutes=1)
    headers = bearer(made["secret"])
    assert [plain.get("/v1/models", headers=headers).status_code for _ in range(2)] == [200, 429]


def test_requests_per_minute(plain: httpx.Client, make: Make) -> None:
    headers = bearer(make("chat", requests_per_minute=2))
    first, second, third = (plain.get("/v1/models", headers=headers) for _ in range(3))
    assert (first.status_code, second.status_code, third.status_code) == (200, 200, 429)
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert [one.headers["x-ratelimit-remaining-requests"] for one in (first, second)] == ["1", "0"]
    assert third.json()["error"]["type"] == "rate_limit_error"
    assert third.headers["x-should-retry"] == "true"
    assert 1 <= int(third.headers["retry-after"]) <= 60


def test_tokens_per_minute(stock: Callable[[str], openai.OpenAI], make: Make) -> None:
    client = stock(make("chat", tokens_per_minute=9))
    told = client.chat.completions.with_raw_response.create(model="flywheel-plain", messages=HELLO, max_tokens=30)  # type: ignore[arg-type]
    assert told.headers["x-ratelimit-remaining-tokens"] == "9"
    usage = told.parse().usage
    assert usage is not None
    assert usage.total_tokens > 9
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(model="flywheel-plain", messages=HELLO)  # type: ignore[arg-type]
    assert refused.value.code == "rate_limit_exceeded"


def test_tokens_of_prompt_and_answer_are_counted(speak: Callable[[str], httpx.Client], make: Make) -> None:
    client = speak(make("chat", tokens_per_minute=1000))
    body = {"model": "flywheel-plain", "messages": HELLO, "max_tokens": 3}
    first, second = (client.post("/v1/chat/completions", json=body) for _ in range(2))
    left = int(second.headers["x-ratelimit-remaining-tokens"])
    assert left == 1000 - first.json()["usage"]["total_tokens"]


def test_chats_at_once(stock: Callable[[str], openai.OpenAI], make: Make) -> None:
    client = stock(make("chat", at_once=1))
    long = {"model": "flywheel-plain", "messages": HELLO, "max_tokens": 300, "extra_body": {"ignore_eos": True}}
    stream = client.chat.completions.create(stream=True, **long)  # type: ignore[call-overload]
    next(iter(stream))
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model="flywheel-plain", messages=HELLO)  # type: ignore[arg-type]
    assert list(stream)
    client.chat.completions.create(model="flywheel-plain", messages=HELLO, max_tokens=1)  # type: ignore[arg-type]
