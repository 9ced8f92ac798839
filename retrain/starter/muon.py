"""Muon for small CPU trainings: momentum whose matrices are made orthogonal, in float32.

torch.optim.Muon works in bfloat16, which most CPUs only emulate. Matrices of one shape are handled together.
Source of the iteration: Keller Jordan, "Muon: an optimizer for hidden layers" (2024), five Newton-Schulz steps.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Matrices [n, rows, columns] with their singular values moved close to one."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    found: torch.Tensor = x.mT if tall else x
    return found


class Muon(torch.optim.Optimizer):
    """Holds the momentum of each matrix."""

    def __init__(
        self, parameters: Iterable[torch.Tensor], *, lr: float, momentum: float = 0.95, decay: float = 0.01
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[torch.Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    shapes[matrix.shape].append(matrix)
            for shape, matrices in shapes.items():
                moved = [self.push(matrix, group["momentum"]) for matrix in matrices]
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for matrix, way in zip(matrices, orthogonal(torch.stack(moved)), strict=True):
                    matrix.mul_(1 - group["lr"] * group["decay"]).add_(way, alpha=-scale)

    def push(self, matrix: torch.Tensor, momentum: float) -> torch.Tensor:
        """The Nesterov momentum of a matrix after its newest gradient."""
        assert matrix.grad is not None
        held = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
        held.lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(held, momentum)
