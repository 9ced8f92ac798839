"""Variant: what answers a question, an adapter with a prompt version. It is tried, promoted and rolled back as one."""

from __future__ import annotations

from dataclasses import dataclass

SHIPPED = "shipped"
"""What people call the wording that comes with Flywheel; in records, null."""


@dataclass(frozen=True)
class Variant:
    adapter: str
    prompt: str | None = None
    """Null: the wording that Flywheel ships."""

    def __str__(self) -> str:
        return f"{self.adapter} with prompt {self.prompt}" if self.prompt else self.adapter

    @property
    def whole(self) -> str:
        """Where prompts are compared: the shipped one is named, too."""
        return f"{self.adapter} with prompt {self.prompt or SHIPPED}"
