"""Per-channel statistics: extremes and second moments of each index of one axis, and of each two."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxq.types.statistics import ChannelStatistics

Floats = npt.NDArray[np.float64]

_BLOCK = 1 << 20  # elements of a block, so that temporaries stay small whatever the array's size


def observe_channels(values: npt.NDArray[Any], axis: int, *, products: bool = False) -> ChannelStatistics:
    """Return the statistics of one array for each index of an axis; only finite values count.

    Args:
        values: float32 or float64.
        axis: the channels' axis.
        products: whether to sum the products of every two channels too, in which values that are not finite count as 0.
    """
    place = axis % values.ndim
    outer, channels, inner = math.prod(values.shape[:place]), values.shape[place], math.prod(values.shape[place + 1 :])
    blocks = values.reshape(outer, channels, inner)
    low, high = np.full(channels, np.inf), np.full(channels, -np.inf)
    squares, count = np.zeros(channels), np.zeros(channels, np.int64)
    gram = np.zeros((channels, channels)) if products else None
    rows = max(1, _BLOCK // max(1, channels * inner))
    columns = max(1, _BLOCK // max(1, channels))
    for row in range(0, outer, rows):
        for column in range(0, inner, columns):
            block = blocks[row : row + rows, :, column : column + columns]
            lows, highs, block_squares, block_count = _block(block)
            low, high = np.minimum(low, lows), np.maximum(high, highs)
            squares, count = squares + block_squares, count + block_count
            if gram is not None:
                gram += _products(block)
    return _channels(axis, low, high, squares, count, products=gram)


def merge_channels(a: ChannelStatistics | None, b: ChannelStatistics | None) -> ChannelStatistics | None:
    """Return the merged statistics; None where one is None, or their axes or numbers of channels differ."""
    if a is None or b is None or a.axis != b.axis or a.count.shape != b.count.shape:
        return None
    low = np.minimum(np.where(a.count, a.minimum, np.inf), np.where(b.count, b.minimum, np.inf))
    high = np.maximum(np.where(a.count, a.maximum, -np.inf), np.where(b.count, b.maximum, -np.inf))
    products = None if a.products is None or b.products is None else a.products + b.products
    return _channels(a.axis, low, high, a.sum_squares + b.sum_squares, a.count + b.count, products=products)


def _block(block: npt.NDArray[Any]) -> tuple[Floats, Floats, Floats, npt.NDArray[np.int64]]:
    """Return minima, maxima, sums of squares and counts of an array (outer, channels, inner) that is not empty."""
    others = (0, 2)
    low, high = block.min(axis=others).astype(np.float64), block.max(axis=others).astype(np.float64)
    count = np.full(low.size, block.shape[0] * block.shape[2], np.int64)
    if (np.isfinite(low) & np.isfinite(high)).all():
        return low, high, _squares(block), count
    finite = np.isfinite(block)
    low = block.min(axis=others, initial=np.inf, where=finite).astype(np.float64)
    high = block.max(axis=others, initial=-np.inf, where=finite).astype(np.float64)
    return low, high, _squares(np.where(finite, block, 0)), finite.sum(axis=others, dtype=np.int64)


def _squares(block: npt.NDArray[Any]) -> Floats:
    with np.errstate(over="ignore"):
        return np.asarray(np.square(block, dtype=np.float64).sum(axis=(0, 2)))


def _products(block: npt.NDArray[Any]) -> Floats:
    """Return X^T X of an array (outer, channels, inner), one row of X a place."""
    with np.errstate(over="ignore", invalid="ignore"):
        places = np.moveaxis(block, 1, -1).reshape(-1, block.shape[1]).astype(np.float64)
        places[~np.isfinite(places)] = 0
        return np.asarray(places.T @ places)


def _channels(
    axis: int,
    low: Floats,
    high: Floats,
    squares: Floats,
    count: npt.NDArray[np.int64],
    *,
    products: Floats | None,
) -> ChannelStatistics:
    return ChannelStatistics(
        axis=axis,
        minimum=np.where(count, low, 0.0) + 0.0,  # -0.0 would depend on the order
        maximum=np.where(count, high, 0.0) + 0.0,
        sum_squares=squares,
        count=count,
        products=products,
    )
