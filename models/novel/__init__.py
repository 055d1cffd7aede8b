"""novel: a small LLaMA-like decoder that was never anything but float; trained for this project (`train.py`).

2.4 million parameters in five layers, byte-level BPE of 2,048 tokens, trained on four of Jane Austen's novels (public
domain); calibrated on Persuasion and judged on Emma, neither of which it has seen: perplexity 46.4 there. Smaller than
one would like (5 to 10 million): its weights are in the repository, where in float16 they take just under 5 MB. The
weights, tokenizer and graph fall under the project's licence.

weights.safetensors: float16, named as in Hugging Face's LlamaModel. The ONNX graph is built from them in float32
(`models/decoder.py`) on first use and kept in the cache.
"""

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import tokenizers

from models.austen import novel
from models.decoder import Shape, build_decoder
from models.entry import Array, Entry, Feeds, Metric, Run, ZooModel
from models.fetch import atomic_file, cache_folder
from models.perplexity import batches, perplexity, windows

SHAPE = Shape(layers=5, heads=6, key_heads=2, width=192, inner=512, vocabulary=2048, rotary_base=10000.0, epsilon=1e-5)
CONTEXT = 256
CALIBRATION_WINDOWS, EVALUATION_WINDOWS, TEST_WINDOWS = 64, 16, 64
FOLDER = Path(__file__).parent
_WEIGHTS = FOLDER / "weights.safetensors"


def load() -> ZooModel:
    """The decoder without a cache."""
    build()
    return ZooModel(
        name="novel",
        path=model_path(),
        calibration=calibration,
        evaluation=evaluation,
        metric=Metric(name="perplexity", higher_is_better=False, compute=perplexity_on_emma),
    )


def model_path(*, cache: bool = False) -> Path:
    """Where a built graph lies; ``cache``: the one that keeps keys and values."""
    digest = hashlib.sha256(_WEIGHTS.read_bytes()).hexdigest()[:12]
    # The number counts up when `models/decoder.py` changes what it writes.
    return cache_folder() / f"novel-{digest}" / ("model-with-cache-1.onnx" if cache else "model-1.onnx")


def build() -> None:
    """Write both graphs, unless they are there."""
    import onnx_ir as ir
    from safetensors.numpy import load_file

    for cache_too in (False, True):
        target = model_path(cache=cache_too)
        if not target.is_file():
            weights = {name: array.astype("float32") for name, array in load_file(_WEIGHTS).items()}
            with atomic_file(target) as temporary:
                ir.save(build_decoder(weights, SHAPE, cache=cache_too), temporary)


def calibration() -> Iterator[Feeds]:
    """16 batches of 4 windows of 256 tokens of Persuasion."""
    return batches(_persuasion()[:CALIBRATION_WINDOWS], 4)


def evaluation() -> Iterator[Feeds]:
    """4 batches of 4 windows of Persuasion that calibration does not see."""
    return batches(_persuasion()[CALIBRATION_WINDOWS:], 4)


def perplexity_on_emma(run: Run) -> float:
    """Perplexity on the first 16,384 tokens of Emma, in windows of 256."""
    return perplexity(run, windows(tokenizer(), novel("Emma"), context=CONTEXT, count=TEST_WINDOWS))


@cache
def tokenizer() -> tokenizers.Tokenizer:
    """The model's own tokenizer."""
    return tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


def _persuasion() -> Array:
    count = CALIBRATION_WINDOWS + EVALUATION_WINDOWS
    return windows(tokenizer(), novel("Persuasion"), context=CONTEXT, count=count)


ENTRIES = (Entry(name="novel", summary="small LLaMA decoder, float to the bone, 5 MB in the repository", load=load),)
