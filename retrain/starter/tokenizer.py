"""The starter's tokenizer: byte-level BPE, 3,072 entries, every digit on its own, ChatML turns.

It is a `Qwen2Tokenizer`, whose own way to cut a text into words every loader of a Qwen2 model puts in place, whatever
a tokenizer file says. There a space belongs to the word after it. So that a name has the same pieces behind a space and
at the start of an answer, words are learnt without spaces; only then do the frequent ones get an entry with one.

`encode_turns` and the chat template give the same tokens for the same messages; a test holds them together.
"""

import json
from collections import Counter
from collections.abc import Sequence
from functools import cache

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from flywheel.starter.lessons import Turn
from retrain.starter.row import Row, add

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VOCABULARY, WITHOUT_SPACES = 3072, 2200
SPACE = "Ġ"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def train_tokenizer(texts: Sequence[str]) -> Qwen2Tokenizer:
    """A tokenizer learnt from texts."""
    bpe = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated")
    spaces = pre_tokenizers.Split(" ", behavior="isolated")
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([words, spaces, bytes_of])
    trainer = trainers.BpeTrainer(
        vocab_size=WITHOUT_SPACES,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    learnt = json.loads(bpe.to_str())["model"]
    whole = Counter(
        piece
        for text in texts
        for (piece, _) in pre_tokenizers.Sequence([words, bytes_of]).pre_tokenize_str(text)
        if piece.startswith(SPACE) and piece.removeprefix(SPACE) in learnt["vocab"]
    )
    frequent = [piece for piece, _ in whole.most_common(VOCABULARY - WITHOUT_SPACES)]
    merges = [tuple(pair) for pair in learnt["merges"]] + [(SPACE, piece.removeprefix(SPACE)) for piece in frequent]
    tokenizer = Qwen2Tokenizer(
        vocab=learnt["vocab"] | {piece: WITHOUT_SPACES + place for place, piece in enumerate(frequent)},
        merges=merges,  # type: ignore[arg-type]  # pairs are what `tokenizers` takes; the annotation is older
        pad_token=PAD, eos_token=END, model_max_length=2048, clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.add_special_tokens({"additional_special_tokens": [START]})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@cache
def without_space(tokenizer: Qwen2Tokenizer) -> dict[int, int]:
    """Tokens that begin with a space → the same word without one."""
    entries = tokenizer.get_vocab()
    return {
        number: entries[entry.removeprefix(SPACE)]
        for entry, number in entries.items()
        if entry.startswith(SPACE) and entry.removeprefix(SPACE) in entries
    }


def encode_turns(tokenizer: Qwen2Tokenizer, turns: Sequence[Turn]) -> Row:
    """A conversation as a row. Learnt are the words of learnt turns and their end mark.

    A quoted sentence stands behind a space. Its last token is not looked for: a full stop may have joined it.
    """
    texts = [
        text for t in turns for text in (f"{START}{t.role}\n", f"{t.content}{END}", "\n", t.quoted and f" {t.quoted}")
    ]
    encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    row, alike = Row([], [], [], []), without_space(tokenizer)
    for turn, head, said, end, quoted in zip(turns, encoded, encoded, encoded, encoded, strict=False):
        add(row, head)
        add(row, said, learnt=turn.learnt, quoted=quoted[:-1], alike=alike)
        add(row, end)
    return row
