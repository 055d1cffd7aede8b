"""Observing and merging: arrays to statistics, bit-identical whatever the split, order, batching or merge tree.

Moments are the exception: they are float64 sums, equal to about 1e-13 of the sum of magnitudes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxq.errors import CalibrationError
from onnxq.numerics.channels import merge_channels, observe_channels
from onnxq.numerics.clusters import body_histogram, merge_clusters
from onnxq.numerics.exact import exact_mean
from onnxq.numerics.grid import MAX_BINS
from onnxq.numerics.rows import observe_rows
from onnxq.numerics.sentinels import split_sentinels
from onnxq.types.statistics import ChannelStatistics, Cluster, Sentinel, TensorStatistics

__all__ = ["MAX_BINS", "empty", "merge", "observe"]


def empty() -> TensorStatistics:
    """Return the statistics of nothing, which change nothing when merged."""
    return TensorStatistics(histogram=None, minimum=0.0, maximum=0.0, count=0)


def observe(
    array: npt.NDArray[Any], *, batch_axis: int | None = None, channel_axis: int | None = None
) -> TensorStatistics:
    """Return the statistics of one array.

    Args:
        array: floating point (float64, float32, float16, bfloat16), integer or bool, any shape.
        batch_axis: the axis whose indices are samples; None: the array is one sample.
        channel_axis: the axis to keep per-channel statistics for; None: none.

    Raises:
        CalibrationError: an array of another type, or an axis that it does not have.
    """
    array = np.asarray(array)
    for axis in (batch_axis, channel_axis):
        if axis is not None and not -array.ndim <= axis < array.ndim:
            raise CalibrationError(f"an array of shape {list(array.shape)} has no axis {axis}")
    values = _as_float(array)
    rows = values.reshape(1, -1) if batch_axis is None else np.moveaxis(values, batch_axis, 0)
    rows = rows.reshape(rows.shape[0], -1) if rows.size else np.zeros((rows.shape[0], 0), values.dtype)
    seen = observe_rows(np.ascontiguousarray(rows))
    return _statistics(
        seen.clusters,
        nan=seen.nan,
        pos_inf=seen.pos_inf,
        neg_inf=seen.neg_inf,
        zeros=seen.zeros,
        samples=rows.shape[0],
        shapes=_sample_shape(array.shape, batch_axis) if rows.shape[0] else None,
        channels=None if channel_axis is None else observe_channels(values, channel_axis),
    )


def merge(a: TensorStatistics, b: TensorStatistics) -> TensorStatistics:
    """Return the statistics of all that `a` and `b` saw."""
    if not a.samples or not b.samples:
        return a if a.samples else b
    return _statistics(
        merge_clusters(a.clusters, b.clusters),
        nan=a.nan + b.nan,
        pos_inf=a.pos_inf + b.pos_inf,
        neg_inf=a.neg_inf + b.neg_inf,
        zeros=a.zeros + b.zeros,
        samples=a.samples + b.samples,
        shapes=_merge_shapes(a.shapes, b.shapes),
        channels=merge_channels(a.channels, b.channels),
    )


def _as_float(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.dtype in (np.float32, np.float64):
        return array
    if array.dtype.kind in "biu":
        return array.astype(np.float32 if array.dtype.itemsize <= 2 else np.float64)
    if array.dtype == np.float16 or array.dtype.name == "bfloat16":
        return array.astype(np.float32)
    raise CalibrationError(f"values of type {array.dtype} cannot be calibrated; only numbers can")


def _sample_shape(shape: tuple[int, ...], batch_axis: int | None) -> tuple[tuple[int, int], ...]:
    batch = None if batch_axis is None else batch_axis % len(shape)
    return tuple((1, 1) if axis == batch else (extent, extent) for axis, extent in enumerate(shape))


def _merge_shapes(
    a: tuple[tuple[int, int], ...] | None, b: tuple[tuple[int, int], ...] | None
) -> tuple[tuple[int, int], ...] | None:
    if a is None or b is None or len(a) != len(b):
        return None
    return tuple((min(x[0], y[0]), max(x[1], y[1])) for x, y in zip(a, b, strict=True))


def _statistics(
    clusters: tuple[Cluster, ...],
    *,
    nan: int,
    pos_inf: int,
    neg_inf: int,
    zeros: int,
    samples: int,
    shapes: tuple[tuple[int, int], ...] | None,
    channels: ChannelStatistics | None,
) -> TensorStatistics:
    body, masks = split_sentinels(clusters)
    top = body[-1] if body else None
    return TensorStatistics(
        histogram=body_histogram(body) if body else None,
        minimum=min((part.minimum for part in body), default=0.0),
        maximum=max((part.maximum for part in body), default=0.0),
        count=sum(part.count for part in body),
        nan=nan,
        pos_inf=pos_inf,
        neg_inf=neg_inf,
        shapes=shapes,
        sum=sum(part.sum for part in body),
        sum_squares=sum(part.sum_squares for part in body),
        zeros=zeros,
        sentinels=tuple(Sentinel(minimum=m.minimum, maximum=m.maximum, count=m.count) for m in reversed(masks)),
        samples=samples,
        mean_minimum=exact_mean(top.sum_minima, top.samples) if top else 0.0,
        mean_maximum=exact_mean(top.sum_maxima, top.samples) if top else 0.0,
        channels=channels,
        clusters=clusters,
    )
