"""Greedy answers from a base model in memory, many prompts at once."""

from collections.abc import Sequence

import torch
from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

from flywheel.starter.prompt import Message

AT_ONCE = 32
LONGEST_ANSWER = 72


def prompt_text(tokenizer: Qwen2Tokenizer, prompt: list[Message]) -> str:
    """The prompt as the chat template writes it, ready for an answer."""
    turns = [{"role": message["role"], "content": message["content"]} for message in prompt]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


@torch.inference_mode()
def greedy_answers(starter: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, prompts: Sequence[list[Message]]) -> list[str]:
    """One answer per prompt, in their order; prompts of like length run together."""
    texts = [prompt_text(tokenizer, prompt) for prompt in prompts]
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
    answers = [""] * len(texts)
    tokenizer.padding_side = "left"
    for start in range(0, len(order), AT_ONCE):
        chosen = order[start : start + AT_ONCE]
        batch = tokenizer([texts[at] for at in chosen], return_tensors="pt", padding=True, add_special_tokens=False)
        said = starter.generate(  # type: ignore[misc]
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=LONGEST_ANSWER,
            do_sample=False,
            eos_token_id=2,
            pad_token_id=0,
        )
        width = batch["input_ids"].shape[1]
        for at, line in zip(chosen, said, strict=True):
            answers[at] = str(tokenizer.decode(line[width:], skip_special_tokens=True)).strip()
    return answers
