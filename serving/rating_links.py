"""Rating links: a signed address with which a browser may rate one answer, once it is handed out, without a key.

A link names one completion and choice, ends by itself, and is good for rating alone (the signature's salt says so).
The secret lies in the home directory, readable by its owner only; a new secret ends every link.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile

from itsdangerous import BadSignature, SignatureExpired, URLSafeTimedSerializer
from pydantic import BaseModel

from flywheel.errors import NotFoundError, UserError

PURPOSE = "rating-link"
SECRET_BYTES = 32


class RatingLink(BaseModel):
    """What a link allows: rating this choice of this completion until `expires_at`."""

    tenant: str
    completion_id: str
    choice: int
    expires_at: datetime


def link_secret(home: Path) -> bytes:
    """The appliance's secret for links, made on first use."""
    file = home / "link-secret"
    if not file.exists():
        with NamedTemporaryFile(dir=home, prefix=".link-secret-") as fresh:  # readable by its owner only
            fresh.write(secrets.token_bytes(SECRET_BYTES))
            fresh.flush()
            os.fsync(fresh.fileno())
            with suppress(FileExistsError):  # somebody was quicker: theirs counts
                os.link(fresh.name, file)
    secret = file.read_bytes()
    if len(secret) != SECRET_BYTES:
        raise UserError(f"{file} is damaged. Remove it: a new one is made, and links handed out so far end.")
    return secret


def make_token(
    secret: bytes, *, tenant: str, completion_id: str, choice: int, lifetime: timedelta
) -> tuple[str, RatingLink]:
    """The signed text that a link ends with, and what it allows."""
    ends = datetime.now(UTC) + lifetime
    link = RatingLink(tenant=tenant, completion_id=completion_id, choice=choice, expires_at=ends)
    return _signer(secret).dumps(link.model_dump(mode="json")), link


def read_token(secret: bytes, token: str) -> RatingLink:
    """What a token allows. Raises NotFoundError for one that we never made, UserError for one that has ended."""
    try:
        link = RatingLink.model_validate(_signer(secret).loads(token))
    except (BadSignature, SignatureExpired) as error:
        raise NotFoundError("This rating link is not valid. Ask for a new one.") from error
    if link.expires_at < datetime.now(UTC):
        raise UserError("This rating link has ended. Ask for a new one.")
    return link


def _signer(secret: bytes) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(secret, salt=PURPOSE)
