"""Webhooks, sent to a receiver that really listens: what arrives, in which order, and what happens when it says no."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine as Database

from flywheel.audit import record_act
from flywheel.database import now, reading, writing
from flywheel.errors import UserError
from flywheel.experiments import Experiment
from flywheel.promotions import live_adapter, reject
from flywheel.settings import load_settings
from flywheel.webhooks import WebhookReceiver, url_hash
from serving.evidence import look_at_running
from serving.webhooks import GIVEN_UP_AFTER, Outlet
from tests.conftest import serving_on, wait_until
from tests.made_records import made_experiment, made_interaction, made_rating

KEY = b"k" * 32
SECRET = "whsec_" + base64.b64encode(KEY).decode()


class Receiver:
    """Keeps what it is sent, and answers with the statuses that it was given, 204 after that."""

    def __init__(self, url: str) -> None:
        self.url, self.got, self.statuses = url, list[tuple[dict[str, str], bytes]](), list[int]()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.got]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            found.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(found.statuses.pop(0) if found.statuses else 204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Receiver(f"http://127.0.0.1:{server.server_address[1]}/hook?token=s3cret")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def look(database: Database, receiver: Receiver, *, key: bytes | None = KEY) -> Outlet:
    """One look at what has happened, by a process that has just started."""

    async def send() -> Outlet:
        async with httpx.AsyncClient() as http:
            outlet = Outlet(receiver.url, key, database, "default", http)
            await outlet.send_waiting()
            return outlet

    return asyncio.run(send())


def act(database: Database, *acts: str, **details: Any) -> None:
    with writing(database) as session:
        for name in acts:
            record_act(session, tenant="default", actor="olga", act=name, subject="lora-1", details=details)


def state(database: Database, receiver: Receiver) -> WebhookReceiver:
    with reading(database) as session:
        return session.get_one(WebhookReceiver, url_hash(receiver.url))


def test_only_the_serving_that_leads_sends(database: Database, receiver: Receiver) -> None:
    look(database, receiver)
    act(database, "promote")

    async def send_for(seconds: float, *, leads: bool) -> None:
        async with httpx.AsyncClient() as http:
            outlet = Outlet(receiver.url, KEY, database, "default", http)
            with suppress(TimeoutError):
                await asyncio.wait_for(outlet.send_forever(lambda: leads), seconds)

    asyncio.run(send_for(0.5, leads=False))
    assert receiver.events == []
    asyncio.run(send_for(5, leads=True))
    assert len(receiver.events) == 1


def test_decisions_arrive_signed_and_in_order_and_nothing_else_does(database: Database, receiver: Receiver) -> None:
    act(database, "promote")  # before anybody listened
    look(database, receiver)
    act(database, "judge", "promote", "queue_run", "roll_back", reason="complaints", messages="how do I…")
    look(database, receiver)
    look(database, receiver)
    assert [event["type"] for event in receiver.events] == ["promotion.promoted", "promotion.rolled_back"]
    assert receiver.events[0]["data"] == {
        "subject": "lora-1",
        "actor": "olga",
        "audit_position": 3,
        "reason": "complaints",
    }
    for headers, body in receiver.got:
        signed = b".".join((headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body))
        digest = base64.b64encode(hmac.digest(KEY, signed, "sha256")).decode()
        assert headers["webhook-signature"] == f"v1,{digest}"


def test_a_receiver_without_a_secret_gets_no_signature(database: Database, receiver: Receiver) -> None:
    look(database, receiver)
    act(database, "reject")
    look(database, receiver, key=None)
    assert "webhook-signature" not in receiver.got[0][0]


def test_what_is_refused_is_sent_again_under_the_same_id_and_holds_up_what_follows(
    database: Database, receiver: Receiver
) -> None:
    look(database, receiver)
    act(database, "reject", "promote")
    receiver.statuses = [500, 302]
    assert look(database, receiver).refused == look(database, receiver).refused == 1
    assert state(database, receiver).failing_since is not None
    look(database, receiver)
    assert [event["type"].partition(".")[2] for event in receiver.events] == ["rejected"] * 3 + ["promoted"]
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 2
    assert (state(database, receiver).position, state(database, receiver).failing_since) == (2, None)


def test_an_event_that_is_refused_for_days_is_given_up_and_the_next_one_follows(
    database: Database, receiver: Receiver
) -> None:
    look(database, receiver)
    act(database, "reject", "promote")
    receiver.statuses = [400, 400]
    look(database, receiver)
    with writing(database) as session:
        row = session.get_one(WebhookReceiver, url_hash(receiver.url))
        row.failing_since = now() - GIVEN_UP_AFTER - timedelta(minutes=1)
    look(database, receiver)
    assert [event["type"].partition(".")[2] for event in receiver.events] == ["rejected", "rejected", "promoted"]
    assert state(database, receiver).position == 2


def test_nobody_there_is_no_more_than_a_refusal(
    database: Database, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    gone = Receiver("http://127.0.0.1:9/hook?token=s3cret")
    look(database, gone)
    act(database, "promote")
    assert look(database, gone).refused == 1
    assert "ConnectError" in caplog.text
    assert "s3cret" not in caplog.text


def test_a_first_ship_is_told_once_and_so_is_what_ends_it(database: Database, receiver: Receiver) -> None:
    with writing(database) as session:
        trial = made_experiment(session, minimum_users=20)
        for number in range(80):
            arm, user = ("champion", "challenger")[number % 2], f"user-{number}"
            row = made_interaction(session, user=user, experiment_id=trial.id, arm=arm)
            made_rating(session, row, arm == "challenger")
    look(database, receiver)
    for _ in range(2):
        look_at_running(database, alias="flywheel")
    with writing(database) as session:
        for number in range(300):
            made_interaction(session, user=f"late-{number}", experiment_id=trial.id, arm="challenger")
    look_at_running(database, alias="flywheel")
    look(database, receiver)
    told = [(event["type"], event["data"]["verdict"]) for event in receiver.events]
    ended = [("experiment.verdict", "INVALID"), ("experiment.stopped", "INVALID")]
    assert told == [("experiment.verdict", "SHIP"), *ended]


def test_a_running_serving_tells_of_a_decision(receiver: Receiver, tmp_path: Path) -> None:
    webhooks = {"urls": [receiver.url], "secret": SECRET}
    settings = load_settings(
        home=tmp_path, webhooks=webhooks, serving={"port": 0}, engine={"urls": ["http://127.0.0.1:9"]}
    )
    with serving_on(settings) as served:
        wait_until(lambda: _has_row(served.database, receiver))
        with writing(served.database) as session:
            trial = made_experiment(session, verdict="HOLD")
            live = live_adapter(session, alias="flywheel", base_model_hash="base")
            assert live is not None
            reject(session, session.get_one(Experiment, trial.id), live=live, actor="olga", reason="too terse")
        wait_until(lambda: receiver.events)
    [event] = receiver.events
    assert (event["type"], event["data"]["reason"]) == ("promotion.rejected", "too terse")


def _has_row(database: Database, receiver: Receiver) -> bool:
    with reading(database) as session:
        return session.get(WebhookReceiver, url_hash(receiver.url)) is not None


@pytest.mark.parametrize(
    ("webhooks", "says"),
    [
        ({"urls": ["example.org/hook"]}, "webhooks.urls: a webhook goes to a whole address"),
        ({"urls": ["ftp://example.org/hook"]}, "a webhook goes to a whole address"),
        ({"urls": ["https://example.org:99999/s3cret"]}, "a webhook goes to a whole address"),
        ({"urls": ["https://example.org/a b"]}, "a webhook goes to a whole address"),
        ({"urls": ["https://ann:s3cret@example.org/"]}, "no user:password@"),
        ({"secret": "s3cret"}, "webhooks.secret: write whsec_"),
        ({"secret": "whsec_c2hvcnQ="}, "24 to 64 bytes"),
    ],
)
def test_a_bad_address_or_secret_is_refused_with_the_settings(
    webhooks: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as raised:
        load_settings(home=tmp_path, webhooks=webhooks)
    assert says in str(raised.value)
    assert "s3cret" not in str(raised.value)
