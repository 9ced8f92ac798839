"""The library on Chroma inside the process, and on a Chroma server of our own."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flywheel.errors import NotFoundError, UnavailableError, UserError
from flywheel.processes import Part, Running, answers
from rag.embedding import Embedder
from rag.library import Library, collection_name, open_library

Opener = Callable[..., Library]
FERRY = "## Price\nThe ferry costs 14 €.\n\n## Hours\nIt sails from 8:30 to 17:00."


@pytest.fixture(scope="module")
def chroma_url(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("chroma-server")
    program = Path(sys.executable).with_name("chroma")
    command = [str(program), "run", "--path", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    running = Running(Part("chroma", command, None), logs=folder / "logs")
    deadline = time.monotonic() + 60
    while not answers(f"http://127.0.0.1:{port}/api/v2/heartbeat"):
        assert running.alive, running.last_words()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    running.stop()


@pytest.fixture(params=["embedded", "server"])
def opened(request: pytest.FixtureRequest, tmp_path: Path, embedder: Embedder) -> Any:
    """A function that opens the same collection again and again."""
    url = request.getfixturevalue("chroma_url") if request.param == "server" else None

    def open_it(name: str = request.node.name) -> Any:
        return open_library(chroma_url=url, folder=tmp_path / "chroma", name=name, embedder=embedder, chunk_words=80)

    return open_it


def test_nearest_passage_comes_first_with_number_and_score(opened: Opener) -> None:
    library = opened()
    library.add("Heron ferry", FERRY)
    first, second = library.search("When does the ferry leave?", 3)
    assert (first.number, first.document, first.section) == (1, "Heron ferry", "Hours")
    assert first.text == "It sails from 8:30 to 17:00."
    assert 1 >= first.score > second.score > 0


def test_document_of_the_same_title_is_replaced(opened: Opener) -> None:
    library = opened()
    library.add("Heron ferry", FERRY)
    library.add("Heron ferry", "## Price\nThe ferry costs 15 €.")
    assert [found.text for found in library.search("ferry", 9)] == ["The ferry costs 15 €."]
    assert [document.chunks for document in library.documents()] == [1]


def test_index_version_is_that_of_the_contents(opened: Opener) -> None:
    library = opened()
    empty = library.index_version
    library.add("A", "One.")
    one = library.index_version
    library.add("B", "Two.")
    assert len({empty, one, library.index_version}) == 3
    library.remove("B")
    assert library.index_version == one
    assert opened().index_version == one


def test_removed_document_is_found_no_more(opened: Opener) -> None:
    library = opened()
    library.add("Heron ferry", FERRY)
    library.remove("Heron ferry")
    assert library.search("ferry", 3) == []
    with pytest.raises(NotFoundError):
        library.remove("Heron ferry")


def test_replacement_that_was_cut_off_is_mended_when_opened_again(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = opened()
    library.add("Heron ferry", FERRY)
    version = library.index_version

    whole = library._put

    def half(document: Any, parts: Any, vectors: Any) -> None:
        whole(document, parts[:1], vectors[:1])
        raise KeyboardInterrupt

    monkeypatch.setattr(library, "_put", half)
    with pytest.raises(KeyboardInterrupt):
        library.add("Heron ferry", "## Price\nNew.\n\n## Hours\nNew too.")
    again = opened()
    assert again.index_version == version
    assert sorted(found.text for found in again.search("ferry", 9)) == [
        "It sails from 8:30 to 17:00.",
        "The ferry costs 14 €.",
    ]


def test_whole_replacement_whose_clean_up_was_cut_off_stands(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    library = opened()
    library.add("Heron ferry", FERRY)

    class Deaf:
        def __init__(self, real: Any) -> None:
            self.real = real

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

        def delete(self, **_: Any) -> Any:
            raise KeyboardInterrupt

    monkeypatch.setattr(library, "_collection", Deaf(library._collection))
    with pytest.raises(KeyboardInterrupt):
        library.add("Heron ferry", "## Price\nNew.")
    assert [found.text for found in opened().search("ferry", 9)] == ["New."]


def test_tenants_do_not_meet(opened: Opener) -> None:
    opened("documents.a").add("Heron ferry", FERRY)
    assert opened("documents.b").search("ferry", 3) == []


def test_collection_names_stay_apart_and_within_chromas_rules() -> None:
    names = {collection_name(name) for name in ("a", "ä", "a/b", "a-b", "x" * 500)}
    assert len(names) == 5
    assert all(3 <= len(name) <= 512 and name.isascii() for name in names)


def test_document_without_words_is_refused(opened: Opener) -> None:
    with pytest.raises(UserError):
        opened().add("Empty", "# Empty\n\n## Nothing\n")


def test_silent_server_is_said_in_one_line(tmp_path: Path, embedder: Embedder) -> None:
    with pytest.raises(UnavailableError) as refused:
        open_library(chroma_url="http://127.0.0.1:1", folder=tmp_path, name="x", embedder=embedder, chunk_words=80)
    assert "rag.chroma_url" in str(refused.value)
    assert "\n" not in str(refused.value)
