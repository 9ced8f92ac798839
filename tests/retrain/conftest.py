"""A tiny random base model with its own tokenizer, a database in a home of its own, and decided pairs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Engine
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from flywheel.database import migrate, new_id, now, open_database, writing
from flywheel.interactions import Interaction
from flywheel.pairs import PreferencePair, judge
from flywheel.settings import RetrainSettings, Settings

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WORDS = [
    "The Maple plan costs 12 euros a month [1].",
    "Thanks for reaching out! Have a wonderful day!",
    "We open at nine.",
]
SHAPE: dict[str, Any] = {
    "vocab_size": 400, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "intermediate_size": 96, "max_position_embeddings": 512, "tie_word_embeddings": True, "eos_token_id": 2,
    "pad_token_id": 0, "bos_token_id": None,
}  # fmt: skip


def write_tokenizer(folder: Path, *, template: str = CHATML) -> None:
    """A byte-level tokenizer of 400 tokens, in the files a base model has."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(WORDS * 5, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "model_max_length": 512,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(template)


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model's directory without weights: enough to count tokens."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 of 60,000 parameters."""
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, set_seed

    folder = tmp_path_factory.mktemp("base-model")
    set_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**SHAPE))  # type: ignore[no-untyped-call]
    model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=0)  # type: ignore[no-untyped-call]
    model.save_pretrained(str(folder))
    write_tokenizer(folder)
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def records(home: Path) -> Iterator[Engine]:
    """A migrated SQLite database in `home`."""
    engine = open_database(f"sqlite:///{home / 'flywheel.db'}")
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def settings_for(home: Path) -> Callable[..., Settings]:
    """Settings in `home` for a base model; keyword arguments go to the retrain section."""

    def build(base: Path, **retrain: object) -> Settings:
        section = RetrainSettings.model_validate({"minimum_pairs": 4, "poll_seconds": 0.1, "threads": 1} | retrain)
        return Settings(home=home, base_model=str(base), retrain=section)

    return build


@pytest.fixture
def add_pair(records: Engine) -> Callable[..., str]:
    """Stores one interaction with a pair that a rule has decided, and returns the pair's id."""

    def add(question: str, chosen: str, rejected: str, *, conversation: str = "c", tenant: str = "default") -> str:
        completion = new_id("chatcmpl")
        prompt = [{"role": "user", "content": question}]
        with writing(records) as session:
            asked = Interaction(
                id=completion, tenant=tenant, request_id="r", user="u", conversation=conversation, unit="u",
                alias="flywheel", messages=prompt, prompt=prompt, answer=rejected, status="finished", asked_at=now(),
            )  # fmt: skip
            session.add(asked)
            session.flush()
            pair = PreferencePair(
                id=new_id("pair"), tenant=tenant, completion_id=completion, prompt=prompt, a=chosen, b=rejected,
                created_at=now(),
            )  # fmt: skip
            session.add(pair)
            session.flush()
            judge(session, pair, reviewer="rule-1", verdict="a", source="rule")
        return pair.id

    return add


@pytest.fixture
def twenty_pairs(add_pair: Callable[..., str]) -> list[str]:
    """Twenty conversations, each with one decided pair: a plain answer above one with filler."""
    filler = "Thanks! {} Have a wonderful day!"
    return [
        add_pair(f"What costs {n}?", f"It costs {n} euros [1].", filler.format(n), conversation=f"c{n}")
        for n in range(20)
    ]
