"""From a document's text to the chunks that are found and quoted.

A document is Markdown or plain text. Each heading opens a section; a section of at most `chunk_words` words is one
chunk, a longer one is split between sentences. White space inside a chunk is one space. Deeper headings carry their
parents: "Plans / Team". Tables and lists are kept as the words they hold; pictures, PDFs and HTML are not read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

UNTITLED = "Overview"
"""The section of text that stands before the first heading."""
HEADING = re.compile(r"^(?P<marks>#{1,6})\s+(?P<title>.+?)\s*#*$")
UNDERLINE = re.compile(r"^(=+|-+)\s*$")
FENCE = re.compile(r"^\s*(```|~~~)")
SENTENCE_END = re.compile(r"(?<=[.!?…])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9À-Ý])|(?<=[。！？])")


class Section(NamedTuple):
    title: str
    text: str


def chunks(title: str, text: str, *, chunk_words: int) -> list[Section]:
    """The chunks of a document, in its order. The document's own title is not repeated as a section."""
    return [
        Section(section.title, part)
        for section in sections(title, text)
        for part in split_sentences(section.text, chunk_words=chunk_words)
    ]


def sections(title: str, text: str) -> Iterator[Section]:
    """Every heading with the words below it, where there are any."""
    path: list[tuple[int, str]] = []
    words: list[str] = []
    for level, line in _lines(text):
        if level is None:
            words.append(line)
            continue
        yield from _section(title, path, words)
        words = []
        path = [(depth, name) for depth, name in path if depth < level] + [(level, line)]
    yield from _section(title, path, words)


def _section(title: str, path: list[tuple[int, str]], words: list[str]) -> Iterator[Section]:
    text = " ".join(" ".join(words).split())
    if text:
        names = [name for _, name in path if name != title and not (len(path) > 1 and path[0] == (1, name))]
        yield Section(" / ".join(names) or UNTITLED, text)


def _lines(text: str) -> Iterator[tuple[int | None, str]]:
    """Each line as (None, words) or (heading level, title); code fences hold no headings."""
    lines = text.replace("\r\n", "\n").split("\n")
    fenced, skip = False, False
    for number, line in enumerate(lines):
        if skip:
            skip = False
            continue
        if FENCE.match(line):
            fenced = not fenced
        elif fenced:
            yield None, line
        elif found := HEADING.match(line):
            yield len(found["marks"]), found["title"]
        elif line.strip() and number + 1 < len(lines) and _underlined(line, lines[number + 1]):
            skip = True
            yield (1 if lines[number + 1].startswith("=") else 2), line.strip()
        else:
            yield None, line


def _underlined(line: str, following: str) -> bool:
    return bool(UNDERLINE.match(following)) and len(following.strip()) >= 3 and not line.lstrip().startswith(("|", "-"))


def split_sentences(text: str, *, chunk_words: int) -> Iterator[str]:
    """`text` in parts of at most `chunk_words` words, cut between sentences, or inside one that is longer."""
    part: list[str] = []
    for sentence in filter(None, SENTENCE_END.split(text)):
        words = sentence.split()
        if part and len(part) + len(words) > chunk_words:
            yield " ".join(part)
            part = []
        part += words
        while len(part) > chunk_words:
            yield " ".join(part[:chunk_words])
            part = part[chunk_words:]
    if part:
        yield " ".join(part)
