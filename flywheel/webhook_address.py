"""What a webhook's address and secret look like; apart from `flywheel/webhooks.py`, which needs the database."""

from __future__ import annotations

import base64
from urllib.parse import urlsplit

SECRET_MARK = "whsec_"


def check_url(url: str) -> str:
    """The address. Raises ValueError, which never repeats it: an address may hold a token."""
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole or any(letter.isspace() or not letter.isprintable() for letter in url):
        raise ValueError("a webhook goes to a whole address such as https://example.org/flywheel")
    if parts.username is not None or parts.fragment:
        raise ValueError("a webhook's address has no user:password@ and no #part; webhooks.secret signs what is sent")
    return url


def secret_bytes(secret: str) -> bytes:
    """The key behind `whsec_…`. Raises ValueError."""
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_MARK), validate=True)
    except ValueError:
        key = b""
    if not secret.startswith(SECRET_MARK) or not 24 <= len(key) <= 64:
        raise ValueError(f"write {SECRET_MARK} and 24 to 64 bytes in base64 (`openssl rand -base64 32` makes them)")
    return key
