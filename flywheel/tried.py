"""How an experiment tries its challenger, in words: for the commands and the pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def tried(experiment: Mapping[str, Any]) -> str:
    """One clause, of an experiment as the API tells it."""
    shares = [*experiment["ramp"], experiment["traffic_share"]]
    share, later = f"{shares[experiment['step']]:.3g} of the users", shares[experiment["step"] + 1 :]
    if later:
        share += f", later {' and '.join(f'{one:.3g}' for one in later)}"
    how = {
        "split": f"answers {share}",
        "shadow": f"answers the questions of {share} too, for the record only",
        "interleaved": f"answers beside the champion for {share} who can pick one",
    }
    return f"the challenger {how[experiment['mode']]}"
