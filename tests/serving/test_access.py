"""Keys: who gets in, where to, and how much. Every route is walked, as the app itself lists them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from itertools import product

import httpx
import openai
import pytest
from fastapi.routing import APIRoute
from starlette.routing import Route

from flywheel.database import reading, writing
from flywheel.keys import SCOPES, Limits, Scope, create_key, secret_hash, tenant_keys
from serving.access import needed
from tests.conftest import Served, wait_until

Make = Callable[..., str]
HELLO = [{"role": "user", "content": "hello"}]
OPEN = {("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/openapi.json"), ("*", "/rate/{token}")}
"""What anybody may call. A route that is to be as open as these has to be added here, too."""
CHAT = ("/v1/chat/", "/v1/feedback", "/v1/models", "/v1/embeddings", "/v1/search", "/v1/caller")


@pytest.fixture(scope="module")
def make(served: Served) -> Make:
    """A new key's secret."""

    def key(scope: Scope, *, tenant: str = "default", days: float | None = None, **limits: int) -> str:
        with writing(served.database) as session:
            return create_key(
                session,
                tenant=tenant,
                name="somebody",
                scope=scope,
                actor="test",
                lifetime=timedelta(days=days) if days is not None else None,
                limits=Limits(**limits),
            )[1]

    return key


@pytest.fixture
def speak(served: Served) -> Iterator[Callable[[str], httpx.Client]]:
    """A client with a given key, closed at the end."""
    with ExitStack() as stack:
        yield lambda secret: stack.enter_context(httpx.Client(base_url=served.url, headers=bearer(secret), timeout=60))


@pytest.fixture
def stock(served: Served) -> Iterator[Callable[[str], openai.OpenAI]]:
    """The stock client with a given key."""
    with ExitStack() as stack:
        yield lambda secret: stack.enter_context(
            openai.OpenAI(base_url=f"{served.url}/v1", api_key=secret, max_retries=0, timeout=60)
        )


@pytest.fixture(scope="module")
def plain(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=60) as found:
        yield found


def routes(served: Served) -> list[tuple[str, str]]:
    """Method and path of everything that is served."""
    found = []
    for route in served.app.routes:
        assert isinstance(route, Route | APIRoute), f"{route} is walked by no test"
        methods = sorted((route.methods or set()) - {"HEAD"})
        found += [(method, route.path) for method in methods]
    return found


def filled(path: str) -> str:
    return path.replace("{token}", "x").replace("{", "").replace("}", "").replace(":path", "")


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def test_every_route_refuses_without_a_key_and_with_a_wrong_one(served: Served, plain: httpx.Client) -> None:
    walked = 0
    for method, path in routes(served):
        is_open = (method, path) in OPEN or ("*", path) in OPEN
        for headers in ({}, bearer("sk-fw-wrong"), {"authorization": "Basic YTpi"}):
            answer = plain.request(method, filled(path), headers=headers)
            if is_open:
                assert answer.status_code not in (401, 403), path
            else:
                walked += 1
                assert answer.status_code == 401, (method, path)
                assert answer.json()["error"]["code"] == "invalid_api_key"
                assert answer.headers["www-authenticate"] == "Bearer"
    assert walked > 100


def test_a_scope_reaches_what_it_names_and_no_further(served: Served, plain: httpx.Client, make: Make) -> None:
    keys = {(scope, tenant): make(scope, tenant=tenant) for scope, tenant in product(SCOPES, ("default", "other"))}
    for (method, path), ((scope, tenant), secret) in product(routes(served), keys.items()):
        need = needed(method, filled(path))
        assert (need == "nothing") == ((method, path) in OPEN or ("*", path) in OPEN)
        if path.startswith(CHAT):
            assert need == "chat", path
        if need == "nothing" or (method == "POST" and path == "/v1/reviews/refill"):
            continue
        answer = plain.request(method, filled(path), headers=bearer(secret))
        ours = need != "operate" or tenant == "default" or path.startswith(("/v1/documents", "/v1/audit", "/v1/usage"))
        if SCOPES.index(scope) >= SCOPES.index(need) and ours:
            assert answer.status_code not in (401, 403) or answer.json()["error"]["code"] == "x", (method, path, scope)
            assert answer.status_code < 500 or answer.status_code == 503, (method, path, scope)
        else:
            assert answer.status_code == 403, (method, path, scope, tenant)
            assert answer.json()["error"]["code"] == "insufficient_permissions"


def test_what_needs_more_than_chat() -> None:
    """The table itself, so that a rule that opens too much is seen."""
    wanted = {
        ("POST", "/v1/documents"): "operate",
        ("GET", "/v1/interactions"): "review",
        ("GET", "/v1/reviews/next"): "review",
        ("POST", "/v1/judgments"): "review",
        ("POST", "/v1/promotions"): "operate",
        ("POST", "/v1/runs"): "operate",
        ("GET", "/v1/audit"): "operate",
        ("GET", "/metrics"): "operate",
        ("POST", "/v1/keys"): "admin",
        ("POST", "/v1/keys/key-1/revoke"): "admin",
        ("GET", "/v1/something/new"): "operate",
        ("POST", "/healthz"): "operate",
        ("POST", "/v1/keys/a\n/revoke"): "admin",  # %0A in the address
    }
    assert {place: needed(*place) for place in wanted} == wanted


def test_tenants_never_meet(speak: Callable[[str], httpx.Client], make: Make) -> None:
    clients = {name: speak(make("admin", tenant=name)) for name in ("red", "blue")}
    red, blue = clients["red"], clients["blue"]
    body = {"model": "flywheel-plain", "messages": HELLO, "user": "ann"}
    chat = red.post("/v1/chat/completions", json=body).json()
    place = f"/v1/chat/completions/{chat['id']}"
    assert red.get(f"/v1/interactions/{chat['id']}").json()["unit"] == "red/ann"
    assert red.get(f"/v1/lineage/{chat['id']}").status_code == 403  # it shows the pairs of the appliance's tenant
    for path in (place, f"/v1/interactions/{chat['id']}"):
        assert red.get(path).status_code == 200, path
        assert blue.get(path).status_code == 404, path
    rating = {"completion_id": chat["id"], "value": True}
    assert blue.post("/v1/feedback", json=rating).status_code == 404
    assert blue.post("/v1/feedback/links", json={"completion_id": chat["id"]}).status_code == 404
    assert blue.delete(place).status_code == 404
    assert [row["id"] for row in blue.get("/v1/interactions").json()["data"]] == []
    assert chat["id"] in [row["id"] for row in red.get("/v1/interactions").json()["data"]]
    red.post(
        "/v1/documents", json={"title": "Red", "text": "# Red\n\nThe red door opens at nine.\n"}
    ).raise_for_status()
    assert [row["document"] for row in blue.get("/v1/documents").json()["data"]] == []
    assert blue.post("/v1/search", json={"query": "When does the red door open?"}).json()["data"] == []
    assert red.post("/v1/search", json={"query": "When does the red door open?"}).json()["data"][0]["document"] == "Red"
    asked = {**body, "model": "flywheel", "messages": [{"role": "user", "content": "When does the red door open?"}]}
    found = {}
    for name, client in clients.items():
        answer = client.post("/v1/chat/completions", json=asked).json()
        found[name] = client.get(f"/v1/interactions/{answer['id']}").json()["passages"]
    assert [row["document"] for row in found["red"]] == ["Red"]
    assert found["blue"] == []


def test_a_rating_link_works_without_a_key_for_any_tenant(
    speak: Callable[[str], httpx.Client], plain: httpx.Client, make: Make
) -> None:
    green = speak(make("review", tenant="green"))
    chat = green.post("/v1/chat/completions", json={"model": "flywheel-plain", "messages": HELLO}).json()
    link = green.post("/v1/feedback/links", json={"completion_id": chat["id"]}).json()
    assert plain.post(link["url"], data={"value": "up"}).status_code == 200
    assert [row["value"] for row in green.get(f"/v1/interactions/{chat['id']}").json()["feedback"]] == [True]


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
    ring, secret = served.app.state.appliance.keys, make("chat")
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
    shown = next(row for row in api.get("/v1/keys").json()["data"] if row["id"] == made["id"])
    assert "secret" not in shown
    assert "secret_hash" not in shown
    assert shown["last_used_at"] is not None
    assert made["secret"].startswith(shown["prefix"])
    with reading(served.database) as session:
        key = next(row for row in tenant_keys(session, tenant="default") if row.id == made["id"])
    assert made["secret"] not in str(key.model_dump())
    assert made["secret"].encode() not in (served.settings.home / "flywheel.db").read_bytes()


def test_an_admin_of_another_tenant_makes_keys_for_their_own_only(
    speak: Callable[[str], httpx.Client], make: Make
) -> None:
    admin = speak(make("admin", tenant="red"))
    assert admin.post("/v1/keys", json={"name": "x", "actor": "y", "tenant": "blue"}).status_code == 403
    assert admin.post("/v1/keys", json={"name": "x", "actor": "y"}).json()["tenant"] == "red"
    assert {row["tenant"] for row in admin.get("/v1/keys").json()["data"]} == {"red"}


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
    assert api.post("/v1/runs", json={"requested_by": " "}).status_code == 400


def test_nobody_is_given_the_name_of_the_machines_own_keys(api: httpx.Client) -> None:
    refused = api.post("/v1/keys", json={"name": "this machine", "actor": "olga"})
    assert refused.status_code == 400
    assert "Give it another one" in refused.json()["error"]["message"]


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


def test_chats_at_once(stock: Callable[[str], openai.OpenAI], make: Make) -> None:
    client = stock(make("chat", at_once=1))
    long = {"model": "flywheel-plain", "messages": HELLO, "max_tokens": 300, "extra_body": {"ignore_eos": True}}
    stream = client.chat.completions.create(stream=True, **long)  # type: ignore[call-overload]
    next(iter(stream))
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model="flywheel-plain", messages=HELLO)  # type: ignore[arg-type]
    assert list(stream)
    client.chat.completions.create(model="flywheel-plain", messages=HELLO, max_tokens=1)  # type: ignore[arg-type]
