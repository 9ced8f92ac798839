"""A document's title, for everything that ingests files."""

from __future__ import annotations

from pathlib import Path


def title_of(file: Path) -> str:
    """Its first heading, or the file's name."""
    first = file.read_text().lstrip().split("\n", 1)[0]
    return first.lstrip("# ").strip() if first.startswith("#") else file.stem
