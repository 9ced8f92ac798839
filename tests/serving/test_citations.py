"""Which marks of an answer are citations, and where they lead."""

from __future__ import annotations

from flywheel.interactions import Passage
from serving.citations import document_url, mark_cited, url_citations


def passage(number: int) -> Passage:
    return Passage(number=number, document="Ferry", section="Price", text="14 €", score=0.9, chunk_id="c1")


def test_marks_of_passages_that_were_given_are_citations_and_others_are_left_alone() -> None:
    given, answer = [passage(1), passage(2), passage(12)], "14 € [12], not [3], [200] or [x]; see [1]."
    cited = [one["url_citation"] for one in url_citations(given, answer)]
    assert [answer[one["start_index"] : one["end_index"]] for one in cited] == ["[12]", "[1]"]
    assert [one.cited for one in mark_cited(given, answer)] == [True, False, True]


def test_a_title_with_signs_of_its_own_leads_to_its_document() -> None:
    assert document_url("A/B #1", "50 %?") == "/v1/documents/A%2FB%20%231#50%20%25%3F"
