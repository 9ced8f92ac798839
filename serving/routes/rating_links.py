"""Rating without a key: POST /v1/feedback/links makes an address, /rate/TOKEN is the page behind it.

The page is two buttons in plain HTML, without scripts. Looking at it does nothing; pressing a button is a rating.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from html import escape
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from flywheel.database import reading
from flywheel.errors import FlywheelError
from serving.access import Caller
from serving.appliance import Appliance, appliance_of
from serving.protocol import retry_headers
from serving.rating_links import RatingLink, link_secret, make_token, read_token
from serving.routes.feedback import FeedbackBody, give_feedback, rateable

router = APIRouter(tags=["feedback"])
Holder = Annotated[Appliance, Depends(appliance_of)]
DAY = 86_400
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Rate an answer</title>
<meta name="viewport" content="width=device-width"><style>body{font:1.1rem system-ui;margin:4rem auto;max-width:30rem;
text-align:center}button{font-size:2rem;margin:1rem;padding:.5rem 1.5rem}</style><h1>%s</h1>%s</html>"""
BUTTONS = """<form method="post"><button name="value" value="up" aria-label="Good">👍</button>
<button name="value" value="down" aria-label="Bad">👎</button></form>"""


class LinkBody(BaseModel):
    completion_id: str
    choice: int = Field(default=0, ge=0)
    expires_in: int = Field(default=7 * DAY, ge=60, le=90 * DAY)
    """Seconds."""


@router.post("/v1/feedback/links")
def make_link(body: LinkBody, request: Request, appliance: Holder) -> dict[str, Any]:
    """An address for one completion. 404 when it is not known here."""
    with reading(appliance.database) as session:
        rateable(session, appliance, body.completion_id, choice=body.choice)
    token, link = make_token(
        link_secret(appliance.settings.home),
        tenant=appliance.tenant,
        completion_id=body.completion_id,
        choice=body.choice,
        lifetime=timedelta(seconds=body.expires_in),
    )
    return {
        "object": "feedback.link",
        "url": str(request.url_for("rating_page", token=token)),
        **link.model_dump(exclude={"tenant"}),
    }


@router.get("/rate/{token}", response_class=HTMLResponse)
def rating_page(token: str, appliance: Holder) -> HTMLResponse:
    """The buttons."""
    try:
        _read(appliance, token)
    except FlywheelError as error:
        return _refusal(error)
    return _page("Was this answer good?", BUTTONS)


@router.post("/rate/{token}", response_class=HTMLResponse)
async def rate(token: str, appliance: Holder, value: Annotated[Literal["up", "down"], Form()]) -> HTMLResponse:
    """Keep the rating; pressing the other button later changes it."""
    try:
        link = await asyncio.to_thread(_read, appliance, token)
        body = FeedbackBody(completion_id=link.completion_id, choice=link.choice, value=value == "up")
        await give_feedback(body, appliance.seen_by(Caller(link.tenant)))
    except FlywheelError as error:
        return _refusal(error)
    return _page("Thank you", "<p>Your rating is kept.</p>")


def _read(appliance: Appliance, token: str) -> RatingLink:
    return read_token(link_secret(appliance.settings.home), token)


def _refusal(error: FlywheelError) -> HTMLResponse:
    page = _page("This does not work", f"<p>{escape(str(error))}</p>", error.status)
    page.headers.update(retry_headers(error))
    return page


def _page(title: str, inside: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse(PAGE % (title, inside), status, {"cache-control": "no-store"})
