"""One step of the starter's training: optimizers, learning rate, loss, update.

Beside the cross entropy of the answers there is a pointing loss on the attention of a few heads: the choosing heads
shall look at the end of the sentence that holds the answer, the copying heads at the token to be said next. Without it
the model takes tens of millions of tokens to find out which sentence is meant.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import Qwen2ForCausalLM

from retrain.starter.curriculum import Batch
from retrain.starter.muon import Muon

WARM_UP, DECAY_FROM = 0.01, 0.15
MATRIX_RATE, OTHER_RATE = 0.012, 1.5e-3
POINTING_WEIGHT = 0.3
CHOOSING_HEADS = ((-3, 2), (-3, 3))
COPYING_HEADS = ((-2, 0), (-1, 0), (-1, 1))


def optimizers(starter: Qwen2ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon on the matrices, AdamW on embeddings, norms and biases."""
    inner = [p for name, p in starter.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in starter.named_parameters() if p.ndim != 2 or "embed" in name]
    return [Muon(inner, lr=MATRIX_RATE), torch.optim.AdamW(rest, lr=OTHER_RATE, weight_decay=0.0, betas=(0.9, 0.98))]


def rate_at(progress: float) -> float:
    """Warm-up, a level, then a straight line down to 2 %."""
    if progress < WARM_UP:
        return progress / WARM_UP
    return 1.0 if progress < DECAY_FROM else max(0.02, (1 - progress) / (1 - DECAY_FROM))


def turns_right(batch: Batch, hits: torch.Tensor) -> float:
    """The share of learnt turns of which every token was the likeliest. `hits` are the learnt tokens in their order."""
    wanted = batch.learnt[:, 1:]
    first = wanted & ~functional.pad(wanted, (1, 0))[:, :-1]
    turn = first.flatten().cumsum(0)[wanted.flatten()] - 1
    missed = torch.zeros(int(first.sum())).index_add_(0, turn, (~hits).float())
    return float((missed == 0).float().mean())


def pointing_loss(attentions: Sequence[torch.Tensor], source: torch.Tensor, anchor: torch.Tensor) -> torch.Tensor:
    """-log of the attention [rows, heads, from, to] of the pointing heads where it should be, meant over places.

    A place that predicts a learnt token is judged by that token's `source` and `anchor`, both [rows, length].
    """
    losses = [torch.zeros(())]
    for heads, wanted in ((CHOOSING_HEADS, anchor[:, 1:]), (COPYING_HEADS, source[:, 1:])):
        row, place = (wanted >= 0).nonzero(as_tuple=True)
        if len(row):
            looked = [attentions[layer][row, head, place, wanted[row, place]] for layer, head in heads]
            losses.append(-(torch.stack(looked) + 1e-6).log().mean())
    return torch.stack(losses).sum()


@dataclass(frozen=True)
class Losses:
    """What one batch gave: mean cross entropy, pointing loss, and the share of learnt turns said right."""

    answers: torch.Tensor
    pointing: torch.Tensor
    right: float


def batch_loss(starter: Qwen2ForCausalLM, batch: Batch) -> Losses:
    """The losses of a batch. Logits are made for learnt tokens alone. Needs eager attention."""
    made = starter.model(input_ids=batch.tokens, use_cache=False, output_attentions=True)
    wanted = batch.learnt[:, 1:]
    logits, targets = starter.lm_head(made.last_hidden_state[:, :-1][wanted]), batch.tokens[:, 1:][wanted]
    right = turns_right(batch, logits.detach().argmax(dim=-1) == targets)
    pointing = pointing_loss(made.attentions, batch.source, batch.anchor)
    return Losses(functional.cross_entropy(logits, targets), pointing, right)


def train_step(starter: Qwen2ForCausalLM, tools: list[torch.optim.Optimizer], batch: Batch, rate: float) -> Losses:
    """One update, and what the batch gave before it. A loss that is no number stops the run."""
    losses = batch_loss(starter, batch)
    loss = losses.answers + POINTING_WEIGHT * losses.pointing
    if not torch.isfinite(loss):
        raise FloatingPointError("the loss is not finite: lower the learning rate")
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(starter.parameters(), 1.0)
    for tool in tools:
        for group in tool.param_groups:
            group["lr"] = group.setdefault("full_rate", group["lr"]) * rate
        tool.step()
        tool.zero_grad(set_to_none=True)
    return losses
