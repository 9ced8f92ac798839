"""The starter's first weights: a small random Qwen2 with heads that look at the previous token.

Copying from the prompt does not emerge by itself at this size. Qwen2 has biases on queries and keys: set on the
highest rotary pairs, they make a head attend to the token a fixed number of places back, whatever the words are.
Induction heads in later layers then have what they need. Not covered: anything about training.
"""

import math

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from retrain.starter.tokenizer import VOCABULARY

PREVIOUS_TOKEN_HEADS = ((0, 0, 1), (0, 1, 1), (0, 2, 2), (1, 0, 1))
PAIRS = 6
STRENGTH = 5.0


def starter_config(*, layers: int, hidden: int, feed_forward: int, heads: int) -> Qwen2Config:
    """The architecture. Token 2 (<|im_end|>) ends an answer, token 0 pads."""
    return Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )


def starter_weights(config: Qwen2Config, *, seed: int) -> Qwen2ForCausalLM:
    """A new base model with its previous-token heads (layer, head, offset) set."""
    torch.manual_seed(seed)
    starter = Qwen2ForCausalLM(config)  # type: ignore[no-untyped-call]
    for layer, head, offset in PREVIOUS_TOKEN_HEADS:
        look_back(starter, layer=layer, head=head, offset=offset)
    return starter


@torch.no_grad()
def look_back(starter: Qwen2ForCausalLM, *, layer: int, head: int, offset: int) -> None:
    """Makes one head attend `offset` tokens back: biases k = (5, 0), q = 5 (cos oθ, -sin oθ) on each rotary pair."""
    config = starter.config
    assert config.rope_parameters is not None
    size = config.hidden_size // config.num_attention_heads
    attention = starter.model.layers[layer].self_attn
    base = float(config.rope_parameters["rope_theta"] or 0)
    for pair in range(PAIRS):
        angle = offset * base ** (-2 * pair / size)
        first, second = head * size + pair, head * size + pair + size // 2
        attention.k_proj.bias[first], attention.k_proj.bias[second] = STRENGTH, 0.0
        attention.q_proj.bias[first] = STRENGTH * math.cos(angle)
        attention.q_proj.bias[second] = -STRENGTH * math.sin(angle)
