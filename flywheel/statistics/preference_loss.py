"""The loss that direct preference optimisation minimises, for one pair: the yardstick for a trainer's own.

Data model: summed log-probabilities of the chosen and the rejected answer under the policy and under the reference.
Not covered: the trainer's batching and masking.
"""

from __future__ import annotations

from math import exp, log1p


def dpo_loss(
    beta: float, *, policy_chosen: float, policy_rejected: float, reference_chosen: float, reference_rejected: float
) -> float:
    """−ln σ(β[(πc − rc) − (πr − rr)]), stable for any margin (Rafailov et al., NeurIPS 2023, equation 7)."""
    margin = beta * ((policy_chosen - reference_chosen) - (policy_rejected - reference_rejected))
    return max(0.0, -margin) + log1p(exp(-abs(margin)))
