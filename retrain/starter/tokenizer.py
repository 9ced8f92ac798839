"""The starter's tokenizer: byte-level BPE, 2,048 entries, every digit on its own, ChatML turns.

A space belongs to the word before it, not to the one after: so the first word of an answer has the same tokens as in
the passage that it is copied from.

`encode_turns` and the chat template give the same tokens for the same messages; a test holds them together.
"""

from collections.abc import Iterable, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from flywheel.starter.lessons import Turn

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VOCABULARY = 2048
PIECES = r"\d|\p{L}+ ?|[^\s\p{L}\d]+ ?|\s"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer learnt from texts."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe, pad_token=PAD, eos_token=END, model_max_length=2048, clean_up_tokenization_spaces=False
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [START]})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def encode_turns(tokenizer: PreTrainedTokenizerFast, turns: Sequence[Turn]) -> tuple[list[int], list[bool]]:
    """Tokens of a conversation, and which of them are learnt: the words of learnt turns and their end mark."""
    pieces: list[str] = []
    learnt: list[bool] = []
    for turn in turns:
        pieces += [f"{START}{turn.role}\n", f"{turn.content}{END}", "\n"]
        learnt += [False, turn.learnt, False]
    tokens: list[int] = []
    mask: list[bool] = []
    for ids, flag in zip(tokenizer(pieces, add_special_tokens=False)["input_ids"], learnt, strict=True):
        tokens += ids
        mask += [flag] * len(ids)
    return tokens, mask
