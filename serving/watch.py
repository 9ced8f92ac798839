"""What is remembered of one engine from look to look."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Watch:
    """What reconcile keeps in mind about one engine."""

    misses: int = 0
    """Ticks in a row in which it did not answer."""
    troubles: dict[str, str] = field(default_factory=dict)
    """{adapter: why it is not ready}; the empty name stands for the engine itself."""
    unwanted_since: dict[str, float] = field(default_factory=dict)
    """{adapter that it holds: monotonic time since when nobody wants it}."""
    rest_until: dict[str, float] = field(default_factory=dict)
    """{adapter: monotonic time before which it is not tried again}."""

    def note(self, adapter: str, trouble: str | None) -> bool:
        """Keep what is wrong (None: nothing is). True when that is news."""
        if trouble is None:
            self.troubles.pop(adapter, None)
            return False
        known, self.troubles[adapter] = self.troubles.get(adapter), trouble
        return trouble != known
