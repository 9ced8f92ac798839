"""One step of the starter's training: optimizers, learning rate, loss, update."""

import torch
from torch.nn import functional
from transformers import Qwen2ForCausalLM

from retrain.starter.curriculum import Batch
from retrain.starter.muon import Muon

WARM_UP, DECAY_FROM = 0.01, 0.6


def optimizers(starter: Qwen2ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon on the matrices, AdamW on embeddings, norms and biases."""
    inner = [p for name, p in starter.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in starter.named_parameters() if p.ndim != 2 or "embed" in name]
    return [Muon(inner, lr=0.014), torch.optim.AdamW(rest, lr=2e-3, weight_decay=0.0, betas=(0.9, 0.98))]


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


def batch_loss(starter: Qwen2ForCausalLM, batch: Batch) -> tuple[torch.Tensor, float]:
    """Cross entropy of the learnt tokens, and the share of turns said right. Logits are made for those tokens alone."""
    hidden = starter.model(input_ids=batch.tokens, use_cache=False).last_hidden_state
    wanted = batch.learnt[:, 1:]
    logits, targets = starter.lm_head(hidden[:, :-1][wanted]), batch.tokens[:, 1:][wanted]
    right = turns_right(batch, logits.detach().argmax(dim=-1) == targets)
    return functional.cross_entropy(logits, targets), right


def train_step(
    starter: Qwen2ForCausalLM, tools: list[torch.optim.Optimizer], batch: Batch, rate: float
) -> tuple[float, float]:
    """One update; the loss and the share of turns said right. A loss that is no number stops the run."""
    loss, right = batch_loss(starter, batch)
    if not torch.isfinite(loss):
        raise FloatingPointError("the loss is not finite: lower the learning rate")
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(starter.parameters(), 1.0)
    for tool in tools:
        for group in tool.param_groups:
            group["lr"] = group.setdefault("full_rate", group["lr"]) * rate
        tool.step()
        tool.zero_grad(set_to_none=True)
    return float(loss.detach()), right
