"""LoRA for a batch that mixes adapters, as two small matrix products per adapter in it.

vLLM's own CPU path copies the adapter's matrices once for each token before it multiplies, which takes most of a small
model's time, and it lets tokens without an adapter use whatever the last slot holds. Here each adapter of the batch
multiplies all rows, and a mask keeps what it says to its own: few adapters share a batch, and their rank is small.
"""

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

NO_ADAPTER = -1


class GroupedLora(PunicaWrapperCPU):
    """vLLM's CPU wrapper with its hot path replaced; everything else is inherited."""

    def update_metadata(self, *args: object, **kwargs: object) -> None:
        """Note once per step which slots the batch uses, and which rows are whose; None where all are one's."""
        super().update_metadata(*args, **kwargs)
        of_token: torch.Tensor = self.token_lora_indices
        slots = sorted(set(of_token.tolist()))
        self._rows_by_slot = [
            (slot, None if len(slots) == 1 else (of_token == slot).unsqueeze(1)) for slot in slots if slot != NO_ADAPTER
        ]

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **_buffer: object,
    ) -> None:
        """y += scale · (x Aᵀ) Bᵀ with each row's own adapter, in place.

        x is (tokens, inputs), y (tokens, sum of output_slices); A is (slots, 1, rank, inputs) and B (slots, 1, outputs,
        rank), one pair for each slice of y.
        """
        for slot, rows in self._rows_by_slot:
            start = 0
            for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                low_rank = x @ a[slot, 0].T
                if rows is not None:
                    low_rank *= rows
                y[:, start : start + width].addmm_(low_rank, b[slot, 0].T, alpha=scale)
                start += width
