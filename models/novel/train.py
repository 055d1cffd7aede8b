"""Trains the small decoder and writes weights.safetensors and tokenizer.json beside this file.

How to run, from the repository's root (about half an hour on one core; needs torch, which onnxq does not):

    pip install torch==2.13.0 numpy safetensors tokenizers
    python -m models.novel.train

Text: four of Jane Austen's six novels (TRAINING); Persuasion is left for calibration and Emma to test on. The weights
after the last step are the ones kept: no choice is made by looking at either. They are float32 throughout (products in
bfloat16, as usual) and stored in float16, with no other step between: no grid that a quantizer could find again. Every
random number comes from SEED; another torch version or processor can still round differently, so a new run gives an
equally good model rather than the same bytes.
"""

# mypy: ignore-errors
# (torch is not among the packages that the project installs, so its types are unknown where mypy runs)

import math
import time
from pathlib import Path

import numpy as np
import tokenizers
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn
from torch.nn import functional

from models.austen import novel
from models.novel import SHAPE

SEED = 20240611
TRAINING = ("Mansfield Park", "Northanger Abbey", "Pride and Prejudice", "Sense and Sensibility")
STEPS, BATCH, CONTEXT = 1400, 16, 256
LARGEST_RATE, SMALLEST_RATE, WARM_UP = 4e-3, 2e-4, 60
FOLDER = Path(__file__).parent


class Norm(nn.Module):
    """x / rms(x) times a weight (Zhang and Sennrich, 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(SHAPE.width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same shape."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + SHAPE.epsilon) * self.weight


class Attention(nn.Module):
    """Causal self-attention with rotary positions (Su et al., 2021) and grouped keys (Ainslie et al., 2023)."""

    def __init__(self) -> None:
        super().__init__()
        inner, shared = SHAPE.heads * SHAPE.head_size, SHAPE.key_heads * SHAPE.head_size
        self.q_proj = nn.Linear(SHAPE.width, inner, bias=False)
        self.k_proj = nn.Linear(SHAPE.width, shared, bias=False)
        self.v_proj = nn.Linear(SHAPE.width, shared, bias=False)
        self.o_proj = nn.Linear(inner, SHAPE.width, bias=False)
        half = SHAPE.head_size // 2
        angles = torch.outer(torch.arange(CONTEXT), SHAPE.rotary_base ** (-torch.arange(half) / half))
        self.register_buffer("cosine", angles.cos().repeat(1, 2), persistent=False)
        self.register_buffer("sine", angles.sin().repeat(1, 2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, sequence, width] -> the same shape."""
        query = self._turn(self._split(self.q_proj(x)))
        key = self._turn(self._split(self.k_proj(x)))
        mixed = functional.scaled_dot_product_attention(
            query, key, self._split(self.v_proj(x)), is_causal=True, enable_gqa=True
        )
        return self.o_proj(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (-1, SHAPE.head_size)).transpose(1, 2)

    def _turn(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        length = x.shape[2]
        return x * self.cosine[:length] + torch.cat([-second, first], dim=-1) * self.sine[:length]


class FeedForward(nn.Module):
    """down(silu(gate(x)) up(x)) (Shazeer, 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(SHAPE.width, SHAPE.inner, bias=False)
        self.up_proj = nn.Linear(SHAPE.width, SHAPE.inner, bias=False)
        self.down_proj = nn.Linear(SHAPE.inner, SHAPE.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same shape."""
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Attention and feed-forward, each normalized before and added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = Norm(), Norm()
        self.self_attn, self.mlp = Attention(), FeedForward()

    def forward(self, x: Tensor) -> Tensor:
        """[batch, sequence, width] -> the same shape."""
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Token ids [batch, sequence] -> logits [batch, sequence, vocabulary]; names as in Hugging Face's LlamaModel."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(SHAPE.vocabulary, SHAPE.width)
        self.layers = nn.ModuleList(Layer() for _ in range(SHAPE.layers))
        self.norm = Norm()
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, std=0.02 / (math.sqrt(2 * SHAPE.layers) if deep else 1.0))

    def forward(self, ids: Tensor) -> Tensor:
        """[batch, sequence] -> [batch, sequence, vocabulary]."""
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x)
        return functional.linear(self.norm(x), self.embed_tokens.weight)


def make_tokenizer(texts: list[str]) -> tokenizers.Tokenizer:
    """Byte-level BPE (Sennrich et al., 2016) of SHAPE.vocabulary tokens."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=SHAPE.vocabulary, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def rate(step: int) -> float:
    """Linear warm-up, then half a cosine down to SMALLEST_RATE."""
    if step < WARM_UP:
        return LARGEST_RATE * (step + 1) / WARM_UP
    share = (step - WARM_UP) / (STEPS - WARM_UP)
    return SMALLEST_RATE + (LARGEST_RATE - SMALLEST_RATE) * (1 + math.cos(math.pi * share)) / 2


def train(decoder: Decoder, tokens: Tensor) -> None:
    """STEPS steps of AdamW on BATCH random pieces of CONTEXT tokens."""
    random = torch.Generator().manual_seed(SEED)
    matrices = [weight for weight in decoder.parameters() if weight.ndim == 2]
    vectors = [weight for weight in decoder.parameters() if weight.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LARGEST_RATE, betas=(0.9, 0.95))
    started, total = time.perf_counter(), 0.0
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        starts = torch.randint(len(tokens) - CONTEXT - 1, (BATCH,), generator=random)
        pieces = torch.stack([tokens[start : start + CONTEXT + 1] for start in starts])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = decoder(pieces[:, :-1])
        loss = functional.cross_entropy(logits.float().flatten(0, 1), pieces[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        total += loss.item()
        if step % 50 == 49:
            seconds = time.perf_counter() - started
            print(f"step {step + 1}/{STEPS}: loss {total / 50:.3f}, {seconds:.0f} s", flush=True)
            total = 0.0


def main() -> None:
    """Train and write the two files."""
    torch.manual_seed(SEED)
    texts = [novel(title) for title in TRAINING]
    tokenizer = make_tokenizer(texts)
    tokens = torch.tensor(np.concatenate([tokenizer.encode(text).ids for text in texts]))
    decoder = Decoder()
    print(f"{sum(weight.numel() for weight in decoder.parameters()):,} parameters, {len(tokens):,} tokens")
    train(decoder, tokens)
    save_file(
        {name: weight.detach().half().numpy() for name, weight in decoder.named_parameters()},
        FOLDER / "weights.safetensors",
    )
    tokenizer.save(str(FOLDER / "tokenizer.json"))


if __name__ == "__main__":
    main()
