"""Per-channel statistics: extremes and second moments of each index of one axis."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxq.types.statistics import ChannelStatistics


def observe_channels(values: npt.NDArray[Any], axis: int) -> ChannelStatistics:
    """Return what one array (float32 or float64) holds for each index of `axis`; only finite values count."""
    others = tuple(other for other in range(values.ndim) if other != axis % values.ndim)
    low = values.min(axis=others, initial=np.inf).astype(np.float64)
    high = values.max(axis=others, initial=-np.inf).astype(np.float64)
    channels = values.shape[axis]
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.square(values, dtype=np.float64).sum(axis=others)
    count = np.full(channels, values.size // channels if channels else 0, np.int64)
    if values.size and not (np.isfinite(low) & np.isfinite(high)).all():
        finite = np.isfinite(values)
        low = values.min(axis=others, initial=np.inf, where=finite).astype(np.float64)
        high = values.max(axis=others, initial=-np.inf, where=finite).astype(np.float64)
        squares = np.square(values, dtype=np.float64, where=finite, out=np.zeros(values.shape)).sum(axis=others)
        count = finite.sum(axis=others, dtype=np.int64)
    return _channels(axis, low, high, squares, count)


def merge_channels(a: ChannelStatistics | None, b: ChannelStatistics | None) -> ChannelStatistics | None:
    """Return the channels of all that both saw; None where one has none, or their axes or numbers differ."""
    if a is None or b is None or a.axis != b.axis or a.count.shape != b.count.shape:
        return None
    low = np.minimum(np.where(a.count, a.minimum, np.inf), np.where(b.count, b.minimum, np.inf))
    high = np.maximum(np.where(a.count, a.maximum, -np.inf), np.where(b.count, b.maximum, -np.inf))
    return _channels(a.axis, low, high, a.sum_squares + b.sum_squares, a.count + b.count)


def _channels(
    axis: int,
    low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
    squares: npt.NDArray[np.float64],
    count: npt.NDArray[np.int64],
) -> ChannelStatistics:
    return ChannelStatistics(
        axis=axis,
        minimum=np.where(count, low, 0.0) + 0.0,  # -0.0 would depend on the order
        maximum=np.where(count, high, 0.0) + 0.0,
        sum_squares=squares,
        count=count,
    )
