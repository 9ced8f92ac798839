"""Keys: who gets in, and where to. Every route is walked, as the app itself lists them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import httpx
from fastapi.routing import APIRoute
from starlette.routing import Route

from flywheel.keys import SCOPES
from serving.access import needed
from tests.conftest import Served
from tests.serving.conftest import Make, bearer

HELLO = [{"role": "user", "content": "hello"}]
OPEN = {("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/openapi.json"), ("*", "/rate/{token}")}
"""What anybody may call. A route that is to be as open as these has to be added here, too."""
CHAT = ("/v1/chat/", "/v1/feedback", "/v1/models", "/v1/embeddings", "/v1/search", "/v1/caller")


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
