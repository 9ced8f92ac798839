import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from retrain.starter import train
from retrain.starter.evaluate import load
from retrain.starter.train import main


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of a second or two."""
    monkeypatch.setattr(train, "TOKENIZER_ROWS", 600)
    sizes = ["--layers", "3", "--feed-forward", "64", "--batch-tokens", "512"]
    main(["--out", str(tmp_path), "--minutes", "0.03", "--save-minutes", "5", *sizes])
    return tmp_path


def test_run_leaves_a_servable_folder_and_its_figures(run: Path) -> None:
    starter, tokenizer = load(run / "latest")
    assert starter.config.vocab_size == len(tokenizer)
    assert tokenizer.eos_token == "<|im_end|>"
    assert starter.generation_config.temperature <= 0.3
    assert {str(weight.dtype) for weight in load_file(run / "latest" / "model.safetensors").values()} == {
        "torch.bfloat16"
    }
    figures = json.loads((run / "training.json").read_text())
    assert figures["step"] > 0
    assert figures["tokens"] > 0
