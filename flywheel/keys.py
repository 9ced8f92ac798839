"""ApiKey: who may call the API, for which tenant, and how much.

The secret is shown once, when the key is made; kept is its SHA-256 (it has 32 random bytes: nothing to guess, so no
slow hash) and a prefix to know it by. A key that ended or was revoked stays as a record.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict
from pydantic import Field as PydanticField
from sqlalchemy import CheckConstraint, String, delete
from sqlmodel import Field, Session, SQLModel, col, select

from flywheel.audit import record_act
from flywheel.database import JsonOf, UtcTime, new_id, now
from flywheel.errors import ConflictError, NotFoundError, UserError

Scope = Literal["chat", "review", "operate", "admin"]
SCOPES: tuple[Scope, ...] = ("chat", "review", "operate", "admin")
"""Each allows what the ones before it allow. chat: ask, rate, search. review: judge, read interactions. operate:
documents, runs, experiments, promotions, audit. admin: keys."""
FIRST_KEY = (
    "The first admin key, shown this once: {}\nSign in to the dashboard with it, and make others: flywheel keys create"
)
MARK = "sk-fw-"
LOCAL = "this machine"
SHOWN = len(MARK) + 6
"""Letters of a secret that are kept readable."""


class Limits(BaseModel):
    """What a key may use; none is no limit."""

    model_config = ConfigDict(extra="forbid")
    requests_per_minute: int | None = PydanticField(default=None, ge=1, le=10**9)
    tokens_per_minute: int | None = PydanticField(default=None, ge=1, le=10**9)
    """Of prompts and answers."""
    at_once: int | None = PydanticField(default=None, ge=1, le=10**9)
    """Chats under way at the same time."""


class ApiKey(SQLModel, table=True):
    __tablename__ = "api_key"
    __table_args__ = (CheckConstraint("scope IN ('chat', 'review', 'operate', 'admin')", name="scope"),)

    id: str = Field(primary_key=True)
    tenant: str = Field(index=True)
    name: str
    """The person or program that holds it; stands in the audit."""
    prefix: str
    secret_hash: str = Field(unique=True)
    scope: Scope = Field(sa_type=String)
    limits: Limits = Field(default_factory=Limits, sa_type=JsonOf(Limits))
    created_at: datetime = Field(sa_type=UtcTime)
    expires_at: datetime | None = Field(default=None, sa_type=UtcTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcTime)
    last_used_at: datetime | None = Field(default=None, sa_type=UtcTime)
    """To the minute."""

    def card(self) -> KeyCard:
        """What requests need of it."""
        ends = [moment for moment in (self.revoked_at, self.expires_at) if moment is not None]
        return KeyCard(self.id, self.tenant, self.name, self.scope, self.limits, min(ends, default=None))


@dataclass(frozen=True)
class KeyCard:
    """A key as it was read: plain values, since a table's row looks each of them up in its session."""

    id: str
    tenant: str
    name: str
    scope: Scope
    limits: Limits
    ends_at: datetime | None

    @property
    def valid(self) -> bool:
        """Neither revoked nor ended."""
        return self.ends_at is None or self.ends_at > now()

    def allows(self, scope: Scope) -> bool:
        """Whether its scope reaches that far."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)


def secret_hash(secret: str) -> str:
    """What a key is found by."""
    return hashlib.sha256(secret.encode()).hexdigest()


def create_key(
    session: Session,
    *,
    tenant: str,
    name: str,
    scope: Scope,
    actor: str,
    lifetime: timedelta | None = None,
    limits: Limits | None = None,
) -> tuple[ApiKey, str]:
    """A new key and its secret, which nobody can find out again; audited."""
    if name.strip() == LOCAL:
        raise UserError(f"{name!r} is the name of the keys that commands make for themselves. Give it another one.")
    key, secret = _new_key(tenant=tenant, name=name, scope=scope, lifetime=lifetime)
    key.limits = limits or Limits()
    session.add(key)
    details = {"name": key.name, "scope": scope, "prefix": key.prefix}
    record_act(session, tenant=tenant, actor=actor, act="create_key", subject=key.id, details=details)
    return key, secret


def create_local_key(session: Session, *, tenant: str, lifetime: timedelta) -> tuple[ApiKey, str]:
    """An admin key for a program on the appliance's own machine, which could write to the database as well.

    Not audited; whoever asked for it takes it away again (`remove_local_key`), and ended ones go here.
    """
    session.execute(delete(ApiKey).where(col(ApiKey.name) == LOCAL, col(ApiKey.expires_at) < now()))
    key, secret = _new_key(tenant=tenant, name=LOCAL, scope="admin", lifetime=lifetime)
    session.add(key)
    return key, secret


def remove_local_key(session: Session, key_id: str) -> None:
    """It is not needed any more."""
    session.execute(delete(ApiKey).where(col(ApiKey.id) == key_id, col(ApiKey.name) == LOCAL))


def _new_key(*, tenant: str, name: str, scope: Scope, lifetime: timedelta | None) -> tuple[ApiKey, str]:
    if not name.strip() or not tenant.strip():
        raise UserError("A key needs a name (who holds it) and a tenant.")
    secret = MARK + secrets.token_urlsafe(32)
    key = ApiKey(
        id=new_id("key"),
        tenant=tenant,
        name=name.strip(),
        prefix=secret[:SHOWN],
        secret_hash=secret_hash(secret),
        scope=scope,
        created_at=now(),
        expires_at=now() + lifetime if lifetime else None,
    )
    return key, secret


def first_key(session: Session, *, tenant: str) -> str | None:
    """The secret of the tenant's first admin key, made now; None when it ever had a key."""
    if session.exec(select(ApiKey.id).where(ApiKey.tenant == tenant, ApiKey.name != LOCAL)).first():
        return None
    return create_key(session, tenant=tenant, name="first admin", scope="admin", actor="first start")[1]


def key_of(session: Session, hashed: str) -> ApiKey | None:
    """The key with that hash, whether it is still valid or not."""
    return session.exec(select(ApiKey).where(ApiKey.secret_hash == hashed)).first()


def tenant_keys(session: Session, *, tenant: str | None) -> Sequence[ApiKey]:
    """Newest first; of every tenant with None."""
    query = select(ApiKey).order_by(col(ApiKey.id).desc())
    return session.exec(query.where(ApiKey.tenant == tenant) if tenant is not None else query).all()


def revoke_key(session: Session, named: str, *, tenant: str | None, actor: str) -> ApiKey:
    """End a key, named by id or prefix, for good; of any tenant with None. Raises NotFoundError and ConflictError."""
    found = session.exec(select(ApiKey).where((ApiKey.id == named) | (ApiKey.prefix == named)).with_for_update()).all()
    known = [key for key in found if tenant in (None, key.tenant)]
    if not known:
        raise NotFoundError(f"No key {named!r} is known here. `flywheel keys list` shows the keys.")
    if len(known) > 1:
        raise ConflictError(f"{len(known)} keys begin with {named}. Name one by its id.")
    key = known[0]
    if key.revoked_at is not None:
        raise ConflictError(f"Key {named} was revoked on {key.revoked_at:%Y-%m-%d}.")
    key.revoked_at = now()
    record_act(session, tenant=key.tenant, actor=actor, act="revoke_key", subject=key.id, details={"name": key.name})
    return key


def note_use(session: Session, key_id: str) -> None:
    """It was used now."""
    key = session.get(ApiKey, key_id)
    if key is not None:
        key.last_used_at = now()
