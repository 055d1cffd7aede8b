"""A GGUF file of the llama architecture -> weights named as in Hugging Face's LlamaModel, sizes, and the tokenizer.

Reading and dequantizing is the `gguf` package's work. Converters to GGUF reorder the rows of query and key, pairs of a
rotation next to each other; here they are put back, so that pairs are half a head apart.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from models.decoder import Shape
from models.entry import Array

_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTSIDE = {"token_embd.weight": "embed_tokens.weight", "output_norm.weight": "norm.weight"}
_CONTROL = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """What a GGUF file holds: sizes, weights (float32), tokenizer, and how many tensors of each stored type."""

    shape: Shape
    weights: dict[str, Array]
    tokenizer: tokenizers.Tokenizer
    stored: dict[str, int]


def read(path: Path) -> Contents:
    """Read and dequantize all of it; about four times the file's size in memory."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    heads, key_heads = fields["llama.attention.head_count"], fields["llama.attention.head_count_kv"]
    weights: dict[str, Array] = {}
    stored: dict[str, int] = {}
    for tensor in reader.tensors:
        kind = tensor.tensor_type.name
        stored[kind] = stored.get(kind, 0) + 1
        array = np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
        name = _name(tensor.name)
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            array = _halves(array, heads if name.endswith("q_proj.weight") else key_heads)
        weights[name] = array
    shape = Shape(
        layers=fields["llama.block_count"],
        heads=heads,
        key_heads=key_heads,
        width=fields["llama.embedding_length"],
        inner=fields["llama.feed_forward_length"],
        vocabulary=len(weights["embed_tokens.weight"]),
        rotary_base=fields["llama.rope.freq_base"],
        epsilon=fields["llama.attention.layer_norm_rms_epsilon"],
    )
    return Contents(shape=shape, weights=weights, tokenizer=_tokenizer(fields), stored=stored)


def _name(stored: str) -> str:
    if stored in _OUTSIDE:
        return _OUTSIDE[stored]
    _, number, part, _ = stored.split(".")
    return f"layers.{number}.{_NAMES[part]}.weight"


def _halves(weight: Array, heads: int) -> Array:
    """Rows (2 i, 2 i + 1) of each head -> rows (i, i + half)."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _tokenizer(fields: dict[str, Any]) -> tokenizers.Tokenizer:
    """Byte-level BPE, each digit on its own (the "smollm" way of cutting a text before its merges)."""
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    before = tokenizers.pre_tokenizers
    tokenizer.pre_tokenizer = before.Sequence([before.Digits(individual_digits=True), before.ByteLevel(False)])
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens([token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL])
    return tokenizer
