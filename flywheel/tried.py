"""How an experiment tries its challenger, and what it compares, in words: for the commands and the pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flywheel.variants import Variant

GATE_NOT_ASKED = (
    "The gate is not asked: the adapter is the live one, and the gate measures adapters under its own prompts. "
    "What another wording does is told by live users and the guardrails alone."
)


def tried(experiment: Mapping[str, Any]) -> str:
    """One clause, of an experiment as the API tells it."""
    shares = [*experiment["ramp"], experiment["traffic_share"]]
    part = experiment["participants"]
    users = "the users" if part == 1 else f"the {part:.3g} of all users who take part"
    share, later = f"{shares[experiment['step']]:.3g} of {users}", shares[experiment["step"] + 1 :]
    if later:
        share += f", later {' and '.join(f'{one:.3g}' for one in later)}"
    how = {
        "split": f"answers {share}",
        "shadow": f"answers the questions of {share} too, for the record only",
        "interleaved": f"answers beside the champion for {share} who can pick one",
    }
    return f"the challenger {how[experiment['mode']]}"


def gate_note(experiment: Mapping[str, Any]) -> str | None:
    """Why no gate is asked; None where one is."""
    return GATE_NOT_ASKED if experiment["champion"] == experiment["challenger"] else None


def arms_in_words(experiment: Mapping[str, Any]) -> tuple[str, str]:
    """Champion and challenger; with their prompts, where these are not simply the shipped one in both."""
    arms = [Variant(experiment[arm], experiment.get(f"{arm}_prompt")) for arm in ("champion", "challenger")]
    champion, challenger = (arm.whole if any(one.prompt for one in arms) else str(arm) for arm in arms)
    return champion, challenger


def made_live(promotion: Mapping[str, Any]) -> str:
    """What a row of the ledger made live; with its prompt, where that is another than before."""
    variant = Variant(promotion["adapter"], promotion.get("prompt"))
    return str(variant) if variant.prompt == promotion.get("previous_prompt") else variant.whole
