"""/v1/documents and /v1/search: what the knowledge route answers from. Putting in and taking out are audited."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from flywheel.audit import record_act
from flywheel.database import writing
from rag.library import Document
from serving.appliance import Appliance, appliance_of

router = APIRouter(tags=["documents"])
Holder = Annotated[Appliance, Depends(appliance_of)]
NOBODY = "unnamed"
"""Who acted, where neither the key nor the request says."""


class DocumentBody(BaseModel):
    title: str = Field(min_length=1, max_length=300)
    text: str = Field(min_length=1)
    actor: str = ""


class SearchBody(BaseModel):
    query: str = Field(min_length=1, max_length=10_000)
    top_k: int | None = Field(default=None, ge=1, le=50)


@router.post("/v1/documents")
def add_document(body: DocumentBody, appliance: Holder) -> dict[str, Any]:
    """Put a document in, or in the place of the one with its title."""
    document = appliance.ready_library().add(body.title, body.text)
    _audit(appliance, body.actor, "ingest", document.title, {"revision": document.revision, "chunks": document.chunks})
    return {"document": document.title, "sections": document.sections, "chunks": document.chunks}


@router.get("/v1/documents")
def list_documents(appliance: Holder) -> dict[str, Any]:
    """Every document, and the version of the index they make."""
    library = appliance.ready_library()
    return {"data": [_shown(document) for document in library.documents()], "index_version": library.index_version}


@router.get("/v1/documents/{title}")
def one_document(title: str, appliance: Holder) -> dict[str, Any]:
    """One document with its text, chunk by chunk: where citations lead."""
    library = appliance.ready_library()
    parts = library.sections(title)
    return {**_shown(library.document(title)), "data": [{"section": part.title, "text": part.text} for part in parts]}


@router.delete("/v1/documents/{title}")
def remove_document(title: str, appliance: Holder, actor: str = "") -> dict[str, Any]:
    """Take one out of the index."""
    appliance.ready_library().remove(title)
    _audit(appliance, actor, "remove_document", title, {})
    return {"document": title, "deleted": True}


@router.post("/v1/search")
def search(body: SearchBody, appliance: Holder) -> dict[str, Any]:
    """The passages nearest in meaning, best first."""
    found = appliance.ready_library().search(body.query, body.top_k or appliance.settings.rag.top_k)
    return {"data": [passage.model_dump() for passage in found]}


def _shown(document: Document) -> dict[str, Any]:
    return {
        "document": document.title,
        "sections": document.sections,
        "chunks": document.chunks,
        "created_at": document.created_at,
    }


def _audit(appliance: Appliance, actor: str, act: str, subject: str, details: dict[str, Any]) -> None:
    who = appliance.acting(actor, otherwise=NOBODY)
    with writing(appliance.database) as session:
        record_act(session, tenant=appliance.tenant, actor=who, act=act, subject=subject, details=details)
