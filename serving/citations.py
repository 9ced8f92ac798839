"""Citations: which passages an answer names as [number], where in the text, and as OpenAI's clients read them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from flywheel.interactions import Passage

MARK = re.compile(r"\[(\d{1,2})\]")


def mark_cited(passages: Sequence[Passage], answer: str) -> list[Passage]:
    """The passages, with `cited` set for those the answer names."""
    named = {int(mark[1]) for mark in MARK.finditer(answer)}
    return [found.model_copy(update={"cited": found.number in named}) for found in passages]


def url_citations(passages: Sequence[Passage], answer: str) -> list[dict[str, Any]]:
    """One `url_citation` for each mark in the answer that names a passage we gave; other numbers are left alone."""
    by_number = {found.number: found for found in passages}
    return [
        {
            "type": "url_citation",
            "url_citation": {
                "url": document_url(cited.document, cited.section),
                "title": f"{cited.document} – {cited.section}",
                "start_index": mark.start(),
                "end_index": mark.end(),
            },
        }
        for mark in MARK.finditer(answer)
        if (cited := by_number.get(int(mark[1]))) is not None
    ]


def document_url(document: str, section: str) -> str:
    """Where the passage can be read, below this API."""
    return f"/v1/documents/{quote(document, safe='')}#{quote(section, safe='')}"
