"""How the demo tells its story: numbered stages with their times, plain sentences, progress bars."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from flywheel import show


class Teller:
    """Holds the console and the seconds each stage took."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.stages: list[dict[str, str | float]] = []

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        """One stage: its title before, its seconds after (also when it fails)."""
        self.console.print(f"\n[bold cyan]{len(self.stages) + 1}  {title}[/]")
        begun = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - begun
            self.stages.append({"name": name, "seconds": round(seconds, 1)})
            self.console.print(f"[dim]   {seconds:.0f} s[/]")

    def say(self, text: str) -> None:
        """A plain sentence."""
        self.console.print(f"   {escape(text)}", highlight=False, soft_wrap=True)

    @contextmanager
    def bar(self, description: str, total: int) -> Iterator[show.Step]:
        """A progress bar; call what is given once for each thing done."""
        with show.progress(self.console) as progress:
            task = progress.add_task(description, total=total, note="")
            yield lambda: progress.advance(task)
