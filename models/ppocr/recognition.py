"""ppocr-rec: PP-OCRv4 text line recognition. `x` float32 [batch, 3, 48, width] -> probabilities [batch, steps, 6625].

Preparation as PaddleOCR does it: each line scaled to a height of 48, values in -1..1, channels blue green red, lines of
similar width batched together and filled up on the right with 0; so every batch has a width of its own. The answer is
read by best-path CTC decoding (Graves et al., 2006): the likeliest class at each step, repeats merged, blanks dropped.
"""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

from models.entry import Array, Feeds, Run
from models.errors import ZooError
from models.ppocr.render import draw_line
from models.ppocr.words import line

HEIGHT = 48
BATCH = 6
CALIBRATION_LINES, EVALUATION_LINES = 60, 150
_CALIBRATION_SEED, _EVALUATION_SEED = 11, 12


def calibration() -> Iterator[Feeds]:
    """Ten batches of six lines, no two batches of the same width."""
    return (feeds for feeds, _ in _batches(CALIBRATION_LINES, _CALIBRATION_SEED))


def evaluation() -> Iterator[Feeds]:
    """The 25 batches that the metric reads: other lines than those for calibration."""
    return (feeds for feeds, _ in _batches(EVALUATION_LINES, _EVALUATION_SEED))


def whole_line_accuracy(path: Path) -> Callable[[Run], float]:
    """Share of the evaluation lines that are read without any mistake."""
    return lambda run: float(np.mean([found == wanted for found, wanted in readings(path, run)]))


def character_error_rate(path: Path) -> Callable[[Run], float]:
    """Edit distance from the readings to the evaluation lines, as a share of the characters in those lines."""

    def compute(run: Run) -> float:
        pairs = readings(path, run)
        return sum(edit_distance(*pair) for pair in pairs) / sum(len(wanted) for _, wanted in pairs)

    return compute


def readings(path: Path, run: Run) -> list[tuple[str, str]]:
    """(what is read, what was written) for every evaluation line; ``path``: the float model, it holds the alphabet."""
    alphabet = read_alphabet(path)
    pairs: list[tuple[str, str]] = []
    for feeds, texts in _batches(EVALUATION_LINES, _EVALUATION_SEED):
        (probabilities,) = run(feeds).values()
        pairs += zip(decode(probabilities, alphabet), texts, strict=True)
    return pairs


@cache
def read_alphabet(path: Path) -> tuple[str, ...]:
    """The character of every class: the blank, the list in the model's metadata, and the space."""
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    if "character" not in metadata:
        raise ZooError(f"{path} has no list of characters in its metadata (key 'character')")
    return ("", *metadata["character"].splitlines(), " ")


def decode(probabilities: Array, alphabet: tuple[str, ...]) -> list[str]:
    """[batch, steps, classes] -> a string for each line, less the spaces at its ends (they tell of margins)."""
    best = np.argmax(probabilities, axis=2)
    fresh = np.ones_like(best, dtype=bool)
    fresh[:, 1:] = best[:, 1:] != best[:, :-1]
    kept = fresh & (best != 0)
    return ["".join(alphabet[k] for k in row[keep]).strip() for row, keep in zip(best, kept, strict=True)]


def edit_distance(first: str, second: str) -> int:
    """Levenshtein distance: insertions, deletions and substitutions that turn one string into the other."""
    above = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        row = [i]
        for j, b in enumerate(second, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (a != b)))
        above = row
    return above[-1]


def prepare(pictures: list[Array]) -> Array:
    """Pictures [height, width, 3] uint8 of any size -> one array [batch, 3, 48, widest] float32."""
    scaled = [_scale(picture) for picture in pictures]
    batch = np.zeros((len(scaled), 3, HEIGHT, max(one.shape[2] for one in scaled)), dtype=np.float32)
    for row, one in zip(batch, scaled, strict=True):
        row[:, :, : one.shape[2]] = one
    return batch


def _scale(picture: Array) -> Array:
    height, width, _ = picture.shape
    size = (max(HEIGHT // 2, round(width * HEIGHT / height)), HEIGHT)
    resized = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR), dtype=np.float32)
    scaled: Array = resized[:, :, ::-1].transpose(2, 0, 1) / np.float32(127.5) - np.float32(1)
    return scaled


def _batches(count: int, seed: int) -> Iterator[tuple[Feeds, list[str]]]:
    """``count`` lines, sorted by their shape and cut into batches, in an order that mixes widths."""
    random = np.random.default_rng(seed)
    texts = [line(random) for _ in range(count)]
    pictures = [draw_line(text, random) for text in texts]
    order = sorted(range(count), key=lambda k: pictures[k].shape[1] / pictures[k].shape[0])
    for start in random.permutation(np.arange(0, count, BATCH)):
        chosen = order[start : start + BATCH]
        yield {"x": prepare([pictures[k] for k in chosen])}, [texts[k] for k in chosen]
