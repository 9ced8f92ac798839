"""PromptVersion: one wording of the three routes' prompts. Immutable, and named by the hash of its words.

The wording that Flywheel ships is no row but stands here, exactly as the starter base model was trained on it; wherever
a record names a prompt version, null means that one. A wording is checked before it is kept, so whatever is kept can be
rendered (`serving/prompts.py`); the same words again are the same row.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from string import Formatter
from typing import Any
from unicodedata import category

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import Text
from sqlmodel import Field, Session, SQLModel, col, select

from flywheel.audit import record_act
from flywheel.database import JsonOf, UtcTime, now
from flywheel.errors import NotFoundError, UserError
from flywheel.variants import SHIPPED

PLACES = {"number", "document", "section", "text"}
NEEDED = {"number", "text"}
NAME = re.compile("[0-9a-f]{12}")
LONGEST = 4000
"""Characters of one part: all of them go into every question's prompt, and a model reads only so much."""


class Wording(BaseModel):
    """What the routes' prompts say. Of these only `passage` is a template; braces elsewhere are braces."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    knowledge: str
    """The system message of a question that passages may answer; they stand below it."""
    passage: str
    """One passage, with `{number}`, `{document}`, `{section}` and `{text}` in it."""
    no_passages: str
    """Stands where there is no passage."""
    small_talk: str
    refuse: str

    @property
    def version(self) -> str:
        """The hash of the words: twelve hexadecimal digits."""
        return _hash_of(self)


@lru_cache(maxsize=64)
def _hash_of(wording: Wording) -> str:
    parts = (part.replace("\\", r"\\").replace("\n", r"\n") for part in wording.model_dump().values())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


SHIPPED_WORDING = Wording(
    knowledge="Answer from the passages and cite the one you use.",
    passage="[{number}] {document} – {section}: {text}",
    no_passages="(There are no passages.)",
    small_talk="You are a friendly help desk. Answer in one short sentence.",
    refuse="Politely decline: this question is outside what the help desk covers.",
)


class PromptVersion(SQLModel, table=True):
    __tablename__ = "prompt_version"

    version: str = Field(primary_key=True)
    tenant: str = "default"
    wording: Wording = Field(sa_type=JsonOf(Wording))
    note: str = Field(default="", sa_type=Text)
    """What it is to be better at, in its author's words."""
    actor: str
    created_at: datetime = Field(sa_type=UtcTime)


def read_wording(given: Mapping[str, Any]) -> Wording:
    """The wording that these five parts make, without space around each. Raises UserError that says what to mend."""
    try:
        read = Wording.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{name}: {first['msg']}. A wording has {', '.join(Wording.model_fields)}.") from error
    parts = {name: part.replace("\r\n", "\n").strip() for name, part in read.model_dump().items()}
    for name, part in parts.items():
        if not part:
            raise UserError(f"{name} is empty: write what the prompt is to say there.")
        _check_text(name, part)
    _check_template(parts["passage"])
    return Wording(**parts)


def _check_text(name: str, text: str) -> None:
    if len(text) > LONGEST:
        raise UserError(f"{name} has {len(text)} characters: write at most {LONGEST}.")
    odd = next((one for one in text if category(one) in ("Cc", "Cs") and one not in "\n\t"), None)
    if odd is not None:
        raise UserError(f"{name} holds the character U+{ord(odd):04X}, which is no text: take it out.")


def _check_template(template: str) -> None:
    mend = "Use {number} and {text}, and where you like {document} and {section}; a brace itself is {{ or }}."
    try:
        fields = [field for field in Formatter().parse(template) if field[1] is not None]
    except ValueError as error:
        raise UserError(f"passage: its braces do not match ({error}). {mend}") from error
    for _, name, form, conversion in fields:
        if name not in PLACES or form or conversion:
            written = f"{name}{'!' + conversion if conversion else ''}{':' + form if form else ''}"
            raise UserError(f"passage: {{{written}}} stands for nothing. {mend}")
    missing = sorted(NEEDED - {name for _, name, _, _ in fields if name is not None})
    if missing:
        raise UserError(f"passage lacks {' and '.join(f'{{{name}}}' for name in missing)}. {mend}")


def add_prompt_version(session: Session, wording: Wording, *, tenant: str, note: str, actor: str) -> PromptVersion:
    """Keep a wording; the row that there is, where these words were kept before. Raises UserError for shipped ones."""
    if wording == SHIPPED_WORDING:
        raise UserError(f"These are the words that Flywheel ships: change some of them, or say {SHIPPED!r}.")
    known = session.get(PromptVersion, wording.version)
    if known is not None:
        return known
    _check_text("note", note)
    row = PromptVersion(
        version=wording.version, tenant=tenant, wording=wording, note=note, actor=actor, created_at=now()
    )
    session.add(row)
    session.flush()
    record_act(session, tenant=tenant, actor=actor, act="add_prompt", subject=row.version, details={"note": note})
    return row


def prompt_named(session: Session, name: str) -> str | None:
    """What records call the version of this name: None for the shipped one. Raises NotFoundError."""
    if name in (SHIPPED, SHIPPED_WORDING.version):
        return None
    if not NAME.fullmatch(name) or session.get(PromptVersion, name) is None:
        raise NotFoundError(f"No prompt version {name!r} is known here. `flywheel prompts` lists them.")
    return name


def wording_of(session: Session, prompt: str | None) -> Wording:
    """The words of what a record names."""
    return session.get_one(PromptVersion, prompt).wording if prompt is not None else SHIPPED_WORDING


def latest_prompt_versions(session: Session, *, limit: int = 50) -> list[PromptVersion]:
    """Newest first; without the shipped one."""
    return list(session.exec(select(PromptVersion).order_by(col(PromptVersion.created_at).desc()).limit(limit)))


def version_of(prompt: str | None) -> str:
    """The hash behind what a record names, as interactions carry it."""
    return prompt or SHIPPED_WORDING.version


def prompt_view(session: Session, prompt: str | None) -> dict[str, Any]:
    """For people: the row that a record names, or the shipped wording as if it were one."""
    if prompt is not None:
        row = session.get_one(PromptVersion, prompt)
        return row.model_dump(exclude={"tenant"}) | {"shipped": False}
    shipped = {"version": SHIPPED_WORDING.version, "wording": SHIPPED_WORDING.model_dump(), "shipped": True}
    return shipped | {"note": "what Flywheel ships", "actor": None, "created_at": None}
