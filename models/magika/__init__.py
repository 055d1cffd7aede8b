"""magika: Google's detector of file types, standard_v3_3 (Apache-2.0), 3 MB, from the wheel of magika 1.0.3 (16 MB).

`bytes` int32 [batch, 2048] -> `target_label` float32 [batch, 214], a share for each type. Exported from JAX by tf2onnx,
opset 15. Inside: the int32 input turned into one-hot rows (Equal, Cast) and multiplied with an embedding (a MatMul that
sees only 0 and 1), Gelu spelt with x^3 and Tanh, layer normalization and softmax spelt out, one Conv of 512 channels
whose bias is added after a Slice, GlobalMaxPool, a MatMul; a Max with the constant -inf; names such as `unk__214` for
the same batch axis in several places.

The float model names 99.2 % of the evaluation files rightly.
"""

import json
from collections.abc import Iterator
from functools import cache

import numpy as np

from models.entry import Array, Entry, Feeds, Metric, Run, ZooModel
from models.fetch import Wheel, fetch, fetch_archive
from models.magika.real import ANSIBLE, SPHINX, real_files

_FOLDER = "magika/models/standard_v3_3/"
MAGIKA = Wheel(
    project="magika",
    version="1.0.3",
    sha256="3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",
    members=(_FOLDER + "model.onnx", _FOLDER + "config.min.json"),
    platform="manylinux_2_28_x86_64",
)
BLOCK, SIDE, PADDING = 4096, 1024, 256
"""Bytes read at either end of a file, bytes kept of each, and the token that stands for no byte."""
BATCH = 8
CALIBRATION, EVALUATION = 0, 1


def load() -> ZooModel:
    """The detector, with real files and files made here."""
    fetch(MAGIKA)
    fetch_archive(SPHINX)
    fetch_archive(ANSIBLE)
    return ZooModel(
        name="magika",
        path=MAGIKA.file("model.onnx"),
        calibration=lambda: (feeds for feeds, _ in _batches(CALIBRATION)),
        evaluation=lambda: (feeds for feeds, _ in _batches(EVALUATION)),
        metric=Metric(name="file type accuracy", higher_is_better=True, compute=file_type_accuracy),
    )


def file_type_accuracy(run: Run) -> float:
    """Share of the evaluation files whose likeliest type is the right one (confidence thresholds left aside)."""
    names = np.array(json.loads(MAGIKA.file("config.min.json").read_text())["target_labels_space"])
    hits: list[bool] = []
    for feeds, labels in _batches(EVALUATION):
        (shares,) = run(feeds).values()
        hits += (names[np.argmax(shares, axis=1)] == labels).tolist()
    return float(np.mean(hits))


def tokens(content: bytes) -> Array:
    """What the model sees of a file, int32 [2048]: its first and last kilobyte, white space at the ends stripped.

    A short file is filled up with PADDING, after its beginning and before its end.
    """
    first = np.frombuffer(content[:BLOCK].lstrip()[:SIDE], dtype=np.uint8)
    last = np.frombuffer(content[-BLOCK:].rstrip()[-SIDE:], dtype=np.uint8)
    row = np.full(2 * SIDE, PADDING, dtype=np.int32)
    row[: len(first)] = first
    row[2 * SIDE - len(last) :] = last
    return row


@cache
def _samples() -> list[tuple[str, Array]]:
    """Every file as (type, tokens), real ones before made ones."""
    from models.magika.made import made_files

    return [(label, tokens(content)) for files in (real_files, made_files) for label, content in files()]


def _batches(part: int) -> Iterator[tuple[Feeds, list[str]]]:
    """Every second file, for calibration or evaluation, types mixed."""
    chosen = _samples()[part::2]
    order = np.random.default_rng(51).permutation(len(chosen))
    for start in range(0, len(chosen), BATCH):
        batch = [chosen[k] for k in order[start : start + BATCH]]
        yield {"bytes": np.stack([row for _, row in batch])}, [label for label, _ in batch]


ENTRIES = (Entry(name="magika", summary="file type detector, int32 input, 3.2 MB", load=load),)
