"""ppocr-det: PP-OCRv4 text detection. `x` float32 [batch, 3, H, W] -> share of text at each pixel [batch, 1, H, W].

H and W are multiples of 32; values in -1..1, channels blue green red. The map marks the core of each text line:
differentiable binarization (Liao et al., 2020) shrinks a line's polygon before training, and reading a map means to
threshold it, take connected regions and grow each back.
"""

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from models.entry import Array, Feeds, Run
from models.ppocr.render import Box, Page, draw_page
from models.ppocr.words import line

SIZES = ((480, 640), (640, 480), (736, 736), (320, 832), (640, 960))
"""Height and width of the pages, in turn."""
CALIBRATION_PAGES, EVALUATION_PAGES = 8, 15
_CALIBRATION_SEED, _EVALUATION_SEED = 21, 22
_THRESHOLD, _GROWTH, _SMALLEST = 0.3, 1.6, 20


def calibration() -> Iterator[Feeds]:
    """Eight pages of five sizes, one a batch."""
    return ({"x": prepare(page.pixels)} for page in _pages(CALIBRATION_PAGES, _CALIBRATION_SEED))


def evaluation() -> Iterator[Feeds]:
    """The 15 pages that the metric reads: other pages than those for calibration."""
    return ({"x": prepare(page.pixels)} for page in _pages(EVALUATION_PAGES, _EVALUATION_SEED))


def box_f1(run: Run) -> float:
    """Harmonic mean of precision and recall over text lines; a hit overlaps a line (IoU) by one half or more."""
    hits = found_total = wanted_total = 0
    for page in _pages(EVALUATION_PAGES, _EVALUATION_SEED):
        (shares,) = run({"x": prepare(page.pixels)}).values()
        found = find_boxes(shares[0, 0])
        hits += sum(any(overlap(box, other) >= 0.5 for other in found) for box in page.boxes)
        found_total += len(found)
        wanted_total += len(page.boxes)
    return 2 * hits / (found_total + wanted_total)


def find_boxes(shares: Array) -> list[Box]:
    """Boxes of the text lines in one map [H, W].

    A region is grown on each side by ``area * 1.6 / perimeter``, the reverse of the shrinking in training.
    """
    labels, _ = ndimage.label(shares > _THRESHOLD)
    boxes: list[Box] = []
    for rows, columns in ndimage.find_objects(labels):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if height * width >= _SMALLEST:
            grow = round(height * width * _GROWTH / (2 * (height + width)))
            boxes.append((columns.start - grow, rows.start - grow, columns.stop + grow, rows.stop + grow))
    return boxes


def overlap(first: Box, second: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    common = max(width, 0) * max(height, 0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return common / (areas - common)


def prepare(picture: Array) -> Array:
    """[H, W, 3] uint8 -> [1, 3, H, W] float32."""
    scaled: Array = picture[None, :, :, ::-1].transpose(0, 3, 1, 2) / np.float32(127.5) - np.float32(1)
    return np.ascontiguousarray(scaled)


def _pages(count: int, seed: int) -> Iterator[Page]:
    random = np.random.default_rng(seed)
    for k in range(count):
        height, width = SIZES[k % len(SIZES)]
        yield draw_page([line(random) for _ in range(30)], width, height, random)
