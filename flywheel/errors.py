"""Errors that a person reads. Each message is one line: what is wrong, why, and how to fix it.

The doors translate them: the CLI prints the line and exits with 1, the API answers with `status` in OpenAI's error
shape. Anything that is not a `FlywheelError` is a defect of ours.
"""

from __future__ import annotations


class FlywheelError(Exception):
    """Base of everything we raise on purpose."""

    status = 500
    code = "internal_error"


class UserError(FlywheelError):
    """Something the caller can mend: a wrong value, a missing file, a name that does not exist."""

    status = 400
    code = "invalid_value"


class AccessError(UserError):
    """No API key, or none that is valid."""

    status = 401
    code = "invalid_api_key"


class ForbiddenError(UserError):
    """The key is valid, and what was asked is not for its scope or tenant."""

    status = 403
    code = "insufficient_permissions"


class NotFoundError(UserError):
    """The record asked for does not exist, or does not belong to the caller's tenant."""

    status = 404
    code = "not_found"


class ConflictError(UserError):
    """The record is in a state that does not allow this step (already decided, already closed, lease lost)."""

    status = 409
    code = "conflict"


class EvidenceError(UserError):
    """A promotion lacks something it needs. `missing` lists what, one sentence each."""

    status = 412
    code = "precondition_failed"

    def __init__(self, missing: list[str]) -> None:
        super().__init__("Not promoted, because " + "; ".join(missing) + ".")
        self.missing = missing


class LimitError(FlywheelError):
    """The key has used what it may. `retry_after` is in seconds."""

    status = 429
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnavailableError(FlywheelError):
    """A part that is needed is not ready (engine, writer, vector store). The caller may try again later."""

    status = 503
    code = "unavailable"


class DatabaseTroubleError(UnavailableError):
    """The database takes or tells nothing now (a full disk, a lock held for too long, a server that is away): what was
    asked of it is not at fault. The reason, which may name the server, is in the cause."""
