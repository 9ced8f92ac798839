"""Library: the documents of one tenant, cut into chunks, found again by meaning. Kept in one Chroma collection.

A document is known by its title; adding it again replaces it. Every chunk's id carries the document's revision (a hash
of its chunks), and every chunk says how many its revision has: so a replacement that was cut off is mended when the
library is opened. Readers see the old chunks or the new ones, never both: they wait while a document is exchanged.
`index_version` is a hash of all chunk ids and the embedding model: the same documents always give the same version.
Chroma inside this process must be the only one on its folder. Deleted text stays in Chroma's own files until it
compacts them.
"""

from __future__ import annotations

import hashlib
import threading
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import chromadb
import numpy as np
from chromadb.config import Settings as ChromaSettings

from flywheel.database import now
from flywheel.errors import NotFoundError, UnavailableError, UserError
from flywheel.interactions import Passage
from rag.embedding import Embedder, Vectors
from rag.sections import Section, chunks

BATCH = 256


class Document(NamedTuple):
    """One document as it stands in the index."""

    title: str
    revision: str
    sections: int
    chunks: int
    created_at: datetime


class Library:
    """Holds the collection and the embedding model. Every method may be called from any thread; all of them block."""

    def __init__(self, collection: Any, embedder: Embedder, *, chunk_words: int) -> None:
        self._collection = collection
        self._embedder = embedder
        self._chunk_words = chunk_words
        self._lock = threading.RLock()
        self._documents = _mended(collection)
        self.index_version = self._version()

    def add(self, title: str, text: str) -> Document:
        """Put a document in, or in the place of the one with its title. Raises UserError when it holds no words."""
        title = " ".join(title.split())
        parts = chunks(title, text, chunk_words=self._chunk_words)
        if not title or not parts:
            raise UserError("A document needs a title and some text below it.")
        document = Document(title, _revision(parts), len({part.title for part in parts}), len(parts), now())
        standing = self._documents.get(title)
        if standing is not None and standing.revision == document.revision:
            return standing
        vectors = np.concatenate(
            [
                self._embedder.embed([f"{title} – {part.title}: {part.text}" for part in parts[start : start + BATCH]])
                for start in range(0, len(parts), BATCH)
            ]
        )
        with self._lock:
            self._put(document, parts, vectors)
            self._collection.delete(where={"$and": [{"document": title}, {"revision": {"$ne": document.revision}}]})
            self._documents[title] = document
            self.index_version = self._version()
        return document

    def remove(self, title: str) -> None:
        """Take a document out. Raises NotFoundError."""
        self.document(title)
        with self._lock:
            self._collection.delete(where={"document": title})
            del self._documents[title]
            self.index_version = self._version()

    def documents(self) -> list[Document]:
        """Every document, by title."""
        return [self._documents[title] for title in sorted(self._documents)]

    def document(self, title: str) -> Document:
        """One document. Raises NotFoundError."""
        if title not in self._documents:
            raise NotFoundError(f"No document {title!r} is known here. GET /v1/documents lists them.")
        return self._documents[title]

    def sections(self, title: str) -> list[Section]:
        """The chunks of one document in its order. Raises NotFoundError."""
        self.document(title)
        found = self._collection.get(where={"document": title}, include=["documents", "metadatas"])
        rows = sorted(zip(found["metadatas"], found["documents"], strict=True), key=lambda row: int(row[0]["position"]))
        return [Section(str(about["section"]), str(text)) for about, text in rows]

    def search(self, query: str, top_k: int) -> list[Passage]:
        """The passages nearest in meaning, best first; `score` is the cosine similarity."""
        return self.nearest(self.embed([query])[0], top_k)

    def nearest(self, vector: Vectors, top_k: int) -> list[Passage]:
        """As `search`, for a query that is a vector already."""
        with self._lock:
            if not self._documents:
                return []
            found = self._collection.query(
                query_embeddings=[vector.tolist()], n_results=top_k, include=["documents", "metadatas", "distances"]
            )
        rows = zip(found["ids"][0], found["metadatas"][0], found["documents"][0], found["distances"][0], strict=True)
        return [
            Passage(
                number=number,
                chunk_id=chunk_id,
                document=str(about["document"]),
                section=str(about["section"]),
                text=str(text),
                score=round(1 - float(distance), 4),
            )
            for number, (chunk_id, about, text, distance) in enumerate(rows, 1)
        ]

    def embed(self, texts: list[str]) -> Vectors:
        """Shape (texts, dimensions), each row of length one."""
        return self._embedder.embed(texts)

    def healthy(self) -> bool:
        """Whether the vector store answers."""
        try:
            return bool(self._collection.count() >= 0)
        except (OSError, ValueError, chromadb.errors.ChromaError):
            return False

    def _put(self, document: Document, parts: list[Section], vectors: Vectors) -> None:
        shared = {
            "document": document.title,
            "revision": document.revision,
            "sections": document.sections,
            "chunks": document.chunks,
            "created_at": document.created_at.isoformat(),
        }
        about = [{**shared, "section": part.title, "position": place} for place, part in enumerate(parts)]
        ids = [_chunk_id(document, place) for place in range(len(parts))]
        for start in range(0, len(parts), BATCH):
            batch = slice(start, start + BATCH)
            self._collection.upsert(
                ids=ids[batch],
                embeddings=vectors[batch].tolist(),
                documents=[part.text for part in parts[batch]],
                metadatas=about[batch],
            )

    def _version(self) -> str:
        known = sorted(f"{document.title}\n{document.revision}" for document in self._documents.values())
        return hashlib.sha256("\n".join([self._embedder.name, *known]).encode()).hexdigest()[:12]


def open_library(*, chroma_url: str | None, folder: Path, name: str, embedder: Embedder, chunk_words: int) -> Library:
    """Open the collection `name` inside this process, or on a Chroma server. Raises UnavailableError."""
    settings = ChromaSettings(anonymized_telemetry=False)
    try:
        if chroma_url is None:
            folder.mkdir(parents=True, exist_ok=True)
            client = chromadb.PersistentClient(path=str(folder), settings=settings)
        else:
            place = urlsplit(chroma_url)
            tls = place.scheme == "https"
            client = chromadb.HttpClient(
                host=place.hostname or "localhost",
                port=place.port or (443 if tls else 8000),
                ssl=tls,
                settings=settings,
            )
        collection = client.get_or_create_collection(
            collection_name(name), metadata={"hnsw:space": "cosine"}, embedding_function=None
        )
    except (OSError, ValueError, chromadb.errors.ChromaError) as error:
        where = chroma_url or str(folder)
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UnavailableError(
            f"The vector store at {where} cannot be opened: {reason}. Check rag.chroma_url."
        ) from error
    return Library(collection, embedder, chunk_words=chunk_words)


def collection_name(name: str) -> str:
    """A name that Chroma takes (3 to 512 of a-z, 0-9, '.', '_', '-'), different for different names."""
    kept = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)
    return f"fw-{kept[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _chunk_id(document: Document, place: int) -> str:
    return f"{hashlib.sha256(document.title.encode()).hexdigest()[:12]}-{document.revision}-{place:04d}"


def _revision(parts: list[Section]) -> str:
    return hashlib.sha256("\n".join(f"{part.title}\t{part.text}" for part in parts).encode()).hexdigest()[:12]


def _mended(collection: Any) -> dict[str, Document]:
    """The documents of the collection; of a replacement that was cut off, the newest whole revision stays."""
    found = collection.get(include=["metadatas"])
    revisions: dict[tuple[str, str], list[str]] = defaultdict(list)
    about: dict[tuple[str, str], dict[str, Any]] = {}
    for chunk_id, row in zip(found["ids"], found["metadatas"], strict=True):
        key = (row["document"], row["revision"])
        revisions[key].append(chunk_id)
        about[key] = row
    documents: dict[str, Document] = {}
    for key in sorted(about, key=lambda key: str(about[key]["created_at"])):
        row = about[key]
        if len(revisions[key]) == row["chunks"]:
            created_at = datetime.fromisoformat(row["created_at"]).astimezone(UTC)
            documents[key[0]] = Document(key[0], key[1], int(row["sections"]), int(row["chunks"]), created_at)
    for (title, revision), ids in revisions.items():
        if title not in documents or documents[title].revision != revision:
            collection.delete(ids=ids)
    return documents
