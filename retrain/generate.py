"""Base model and adapter in transformers: greedy answers in batches, likelihoods, and probes for the fingerprint.

Greedy and in float32 on a CPU (bfloat16 on a GPU), so that two runs of the gate agree. The adapter is merged into the
base model's weights, which is quicker and the same function. Not covered: sampling, tools, pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from flywheel.messages import Message
from retrain.run_folder import ADAPTER, Answer, Likelihood, Order, Outcomes

Report = Callable[[dict[str, Any]], None]
ROWS_AT_ONCE = 64
PROBES = ("What are your opening hours?", "How much does it cost?", "Where can I find you?", "Thank you, goodbye!")
PROBE_TOKENS = 16


def load_tokenizer(base_model: str) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(base_model)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(base_model: str) -> PreTrainedModel:
    """The base model on the GPU in bfloat16 when there is one, else on the CPU in float32."""
    gpu = torch.cuda.is_available()
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        base_model, dtype=torch.bfloat16 if gpu else torch.float32
    )
    if gpu:
        model.to("cuda")  # type: ignore[arg-type]
    model.train(False)
    return model


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every token that ends an answer."""
    configured: Any = getattr(model.generation_config, "eos_token_id", None)
    several = configured if isinstance(configured, list) else [configured]
    return {int(token) for token in [*several, tokenizer.eos_token_id] if token is not None}


def outcomes_of(order: Order, folder: Path, report: Report) -> Outcomes:
    """Everything the gate and the fingerprint need from base model and adapter."""
    tokenizer = load_tokenizer(order.base_model)
    base = load_base(order.base_model)
    rows = pq.read_table(order.dataset / "validation.parquet").to_pylist()
    total = 2 * len(order.prompts)

    def answer(model: PreTrainedModel, done: int) -> list[Answer]:
        each = answers(model, tokenizer, order.prompts, max_new_tokens=order.max_new_tokens)
        collected = []
        for collected in each:
            report({"stage": "gate", "done": done + len(collected), "total": total})
        return collected

    before, validation_before = answer(base, 0), likelihoods(base, tokenizer, rows)
    adapted: Any = PeftModel.from_pretrained(base, str(folder / ADAPTER)).eval()
    probes = [_probe(adapted, tokenizer, text) for text in PROBES]
    own = token_log_probs(adapted, probes)
    with adapted.disable_adapter():
        others = token_log_probs(adapted, probes)
    merged: PreTrainedModel = adapted.merge_and_unload()
    gaps = [abs(a - b) for mine, theirs in zip(own, others, strict=True) for a, b in zip(mine, theirs, strict=True)]
    return Outcomes(
        before=before, after=answer(merged, len(before)), validation_before=validation_before,
        validation_after=likelihoods(merged, tokenizer, rows), probe_distance=sum(gaps) / len(gaps),
        probes=[{"token_ids": ids, "log_probs": scores} for ids, scores in zip(probes, own, strict=True)],
    )  # fmt: skip


def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[list[Message]], *, max_new_tokens: int
) -> Iterator[list[Answer]]:
    """Greedy answers in the order of the prompts; the growing list after each batch (similar lengths go together)."""
    encoded = [token_ids(tokenizer, prompt, add_generation_prompt=True) for prompt in prompts]
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
    found: dict[int, Answer] = {}
    for start in range(0, len(order), ROWS_AT_ONCE):
        batch = order[start : start + ROWS_AT_ONCE]
        produced = _continue(model, tokenizer, [encoded[index] for index in batch], max_new_tokens=max_new_tokens)
        stops = stop_ids(model, tokenizer)
        for index, ids in zip(batch, produced, strict=True):
            end = next((place for place, token in enumerate(ids) if token in stops), None)
            text = str(tokenizer.decode(ids[:end], skip_special_tokens=True)).strip()
            found[index] = Answer(text=text, finished=end is not None, tokens=len(ids) if end is None else end)
        yield [found[index] for index in sorted(found)]


def token_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, add_generation_prompt: bool
) -> list[int]:
    """A conversation in the base model's chat template."""
    encoded: Any = tokenizer.apply_chat_template(list(messages), add_generation_prompt=add_generation_prompt)
    return list(encoded["input_ids"])


@torch.inference_mode()
def _continue(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], *, max_new_tokens: int
) -> list[list[int]]:
    """What the model adds to each prompt, at most `max_new_tokens` tokens (padded on the left)."""
    pad: Any = tokenizer.pad_token_id
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    produced = model.generate(
        input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=pad,
        temperature=None, top_p=None, top_k=None,
    )  # fmt: skip
    return [row[longest:] for row in produced.tolist()]


def _probe(model: Any, tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    prompt = token_ids(tokenizer, [{"role": "user", "content": text}], add_generation_prompt=True)
    return prompt + _continue(model, tokenizer, [prompt], max_new_tokens=PROBE_TOKENS)[0]


@torch.inference_mode()
def token_log_probs(model: Any, sequences: Sequence[list[int]]) -> list[list[float]]:
    """Log-probability of each token after the first, in nats, computed in float32."""
    scores: list[list[float]] = []
    for ids in sequences:
        logits = model(input_ids=torch.tensor([ids], device=model.device)).logits[0, :-1].float()
        chosen = torch.tensor(ids[1:], device=model.device)
        scores.append(torch.log_softmax(logits, -1).gather(1, chosen[:, None])[:, 0].tolist())
    return scores


def likelihoods(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]]
) -> list[Likelihood]:
    """How likely chosen and rejected answers of validation rows are."""
    scored = []
    for row in rows:
        prompt = len(token_ids(tokenizer, row["prompt"], add_generation_prompt=True))
        both = [
            token_ids(tokenizer, row["prompt"] + row[part], add_generation_prompt=False)
            for part in ("chosen", "rejected")
        ]
        chosen, rejected = (scores[prompt - 1 :] for scores in token_log_probs(model, both))
        scored.append(Likelihood(chosen=sum(chosen), rejected=sum(rejected), chosen_tokens=len(chosen)))
    return scored
