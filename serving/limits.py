"""What a key may use in a minute, and at once. Counted in this process, in windows of one minute from the first use.

Requests are counted when they come, tokens when the engine has counted them: so tokens may pass their limit by what was
under way, and then nothing is taken until the window ends. Headers are OpenAI's `x-ratelimit-*`.
"""

from __future__ import annotations

import math
import time
from collections import Counter

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from flywheel.errors import LimitError
from flywheel.keys import KeyCard
from serving.counted import Counted

KINDS = ("requests", "tokens")


class KeyLimits:
    """Holds the counts of every key that has limits."""

    def __init__(self) -> None:
        self._windows = FixedWindowRateLimiter(MemoryStorage())
        self._under_way: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        """By kind of limit."""

    def admit(self, key: KeyCard) -> dict[str, str]:
        """Count one request; the headers that tell what is left. Raises LimitError with the seconds to wait."""
        headers = dict[str, str]()
        if key.limits.requests_per_minute is None and key.limits.tokens_per_minute is None:
            return headers
        for kind, most in zip(KINDS, (key.limits.requests_per_minute, key.limits.tokens_per_minute), strict=True):
            if most is None:
                continue
            window = RateLimitItemPerMinute(most)
            fits = self._windows.hit(window, kind, key.id) if kind == "requests" else self._left(window, key)
            ends, left = self._windows.get_window_stats(window, kind, key.id)
            seconds = max(1, math.ceil(ends - time.time()))
            if not fits:
                self._refuse(kind, f"This key may use {most} {kind} a minute. Try again in {seconds} s.", seconds)
            headers |= {
                f"x-ratelimit-limit-{kind}": str(most),
                f"x-ratelimit-remaining-{kind}": str(left),
                f"x-ratelimit-reset-{kind}": f"{seconds}s",
            }
        return headers

    def _left(self, window: RateLimitItemPerMinute, key: KeyCard) -> bool:
        return self._windows.test(window, "tokens", key.id)

    def spend(self, key: KeyCard, tokens: int) -> None:
        """Count the tokens of an answer that is over."""
        if tokens and key.limits.tokens_per_minute is not None:
            self._windows.hit(RateLimitItemPerMinute(key.limits.tokens_per_minute), "tokens", key.id, cost=tokens)

    def under_way(self, key: KeyCard | None) -> Counted:
        """Counts one chat, inside the block. Raises LimitError when the key has as many under way as it may."""
        name = "" if key is None else key.id
        if key is not None and key.limits.at_once is not None and self._under_way[name] >= key.limits.at_once:
            self._refuse("at_once", f"This key may have {key.limits.at_once} chats under way at once. Wait for one.", 1)
        return Counted(self._under_way, name)

    def _refuse(self, kind: str, text: str, seconds: int) -> None:
        self.refused[kind] += 1
        raise LimitError(text, retry_after=seconds)
