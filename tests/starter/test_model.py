from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoTokenizer, Qwen2Tokenizer

import flywheel.starter
from flywheel.starter import lessons
from flywheel.starter.preference import fact_is_right
from retrain.starter.answers import greedy_answers
from retrain.starter.checkpoint import save
from retrain.starter.evaluate import load
from retrain.starter.initial import PREVIOUS_TOKEN_HEADS, starter_config, starter_weights
from retrain.starter.sample import sample_prompts
from retrain.starter.tokenizer import encode_turns, train_tokenizer

MODEL = Path(flywheel.starter.__file__).parent / "model"


@pytest.fixture(scope="module")
def tokenizer() -> Qwen2Tokenizer:
    return load(MODEL)[1]


def test_folder_is_small_and_complete() -> None:
    sizes = {path.name: path.stat().st_size for path in MODEL.iterdir()}
    assert sum(sizes.values()) <= 10 * 2**20
    assert {"model.safetensors", "config.json", "tokenizer.json", "generation_config.json", "README.md"} <= set(sizes)


def test_chat_template_writes_the_tokens_that_training_used(tokenizer: Qwen2Tokenizer) -> None:
    random = Random(8)
    for _ in range(20):
        turns = lessons.mixed(random)
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == encode_turns(tokenizer, turns).tokens


def test_learnt_tokens_are_the_answer_and_its_end(tokenizer: Qwen2Tokenizer) -> None:
    turns = [lessons.Turn("user", "Hello?"), lessons.Turn("assistant", "Hello, how can I help you?", learnt=True)]
    row = encode_turns(tokenizer, turns)
    said = [token for token, flag in zip(row.tokens, row.learnt, strict=True) if flag]
    assert tokenizer.decode(said) == "Hello, how can I help you?<|im_end|>"


def test_every_loader_cuts_texts_as_training_did(tmp_path: Path) -> None:
    random = Random(5)
    texts = [turn.content for _ in range(300) for turn in lessons.mixed(random)]
    fresh = train_tokenizer(texts)
    save(starter_weights(starter_config(layers=3, hidden=128, feed_forward=64, heads=4), seed=0), fresh, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert [loaded(text)["input_ids"] for text in texts] == [fresh(text)["input_ids"] for text in texts]


def test_name_has_the_same_pieces_behind_a_space_and_at_the_start(tokenizer: Qwen2Tokenizer) -> None:
    alone, inside = tokenizer("Zotugovam")["input_ids"], tokenizer("the Zotugovam")["input_ids"]
    assert inside[-len(alone) :] == alone


def test_answer_points_into_its_passage(tokenizer: Qwen2Tokenizer) -> None:
    random, seen = Random(6), 0
    for _ in range(20):
        row = encode_turns(tokenizer, lessons.many_questions(random))
        for token, place in zip(row.tokens, row.source, strict=True):
            words = [str(tokenizer.decode([number])).strip() for number in (token, row.tokens[place])]
            assert place < 0 or words[0] == words[1]
            seen += place >= 0
        assert all(place < 0 or "." in tokenizer.decode(row.tokens[place : place + 3]) for place in row.anchor)
    assert seen > 500


def test_text_survives_the_tokenizer(tokenizer: Qwen2Tokenizer) -> None:
    for text in ["12,50 € – naïve “quote”", "tab\tand\nline", "東京 1999", "  two  spaces "]:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer("2026")["input_ids"]) == 4


def test_shipped_base_model_answers_the_sample_help_centre(tokenizer: Qwen2Tokenizer) -> None:
    starter, _ = load(MODEL)
    asked = [one for one in sample_prompts(1) if one.question["kind"] == "answerable"][:40]
    answers = greedy_answers(starter, tokenizer, [one.messages for one in asked])
    right = [fact_is_right(said, one.question["expected"]) for said, one in zip(answers, asked, strict=True)]
    assert sum(right) >= 26


def test_new_base_model_has_heads_that_look_back() -> None:
    config = starter_config(layers=2, hidden=128, feed_forward=64, heads=4)
    config._attn_implementation = "eager"
    starter = starter_weights(config, seed=0)
    tokens = torch.randint(10, 2000, (1, 40))
    weights = starter(tokens, output_attentions=True).attentions
    for layer, head, offset in PREVIOUS_TOKEN_HEADS:
        looked = weights[layer][0, head].argmax(dim=-1)
        assert all(int(looked[at]) == at - offset for at in range(6, 40))
