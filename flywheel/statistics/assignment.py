"""Which arm a user falls into, from a hash alone.

Data model: an experiment's salt and a unit (user, or conversation where there is no user) give one number in [0, 1);
the shares of the arms cut that interval. Invariant: the same salt and unit give the same number in every process and
after every restart; another salt shuffles everybody anew. Not covered: overrides for testers and the sharing of users
between experiments, which need records.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def unit_interval(salt: str, unit: str) -> float:
    """The place of `unit` in [0, 1): the first eight bytes of sha256("salt:unit"), big endian, over 2^64."""
    digest = hashlib.sha256(f"{salt}:{unit}".encode()).digest()
    # Dividing all 64 bits would round the largest values up to 1.0, so keep the 53 that a float holds exactly.
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def arm_index(place: float, shares: Sequence[float]) -> int | None:
    """Index of the arm whose slice of [0, 1) holds `place`; None beyond the last slice (shares may sum to less than 1).

    Give the challenger first and let it grow from the left: a ramp 1 % → 5 % then moves nobody out of the challenger.
    """
    if any(share < 0 for share in shares) or sum(shares) > 1 + 1e-9:
        raise ValueError(f"shares {list(shares)} must be at least 0 and sum to at most 1")
    edge = 0.0
    for index, share in enumerate(shares):
        edge += share
        if place < edge:
            return index
    # 0.1 summed ten times ends just below 1; the last arm takes the sliver.
    return len(shares) - 1 if shares and edge > 1 - 1e-9 else None
