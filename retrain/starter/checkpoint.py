"""Writes the starter's checkpoints: folders that transformers and vLLM serve."""

import json
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import GenerationConfig, Qwen2ForCausalLM, Qwen2Tokenizer


@dataclass
class Progress:
    """What has happened so far, in seconds and tokens. Losses and `right` (turns said right) are running means."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss: float = 8.0
    pointing: float = 8.0
    right: float = 0.0


def save(starter: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, folder: Path) -> None:
    """A folder that transformers and vLLM serve: bf16 safetensors, configuration, tokenizer, generation defaults."""
    copy = deepcopy(starter)
    copy.bfloat16()
    copy.config.dtype = torch.bfloat16
    copy.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=[2, 0], pad_token_id=0, bos_token_id=None, do_sample=True, temperature=0.3, max_new_tokens=96
    )
    copy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def keep(starter: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, out: Path, progress: Progress) -> None:
    """A checkpoint, and `latest` moved to it in one step."""
    folder = out / f"checkpoint-{progress.step:06d}"
    save(starter, tokenizer, folder)
    (out / "training.json").write_text(json.dumps(asdict(progress), indent=1) + "\n", encoding="utf-8")
    fresh = out / "latest.new"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(folder.name)
    fresh.replace(out / "latest")
