"""Observing and merging: arrays to statistics, bit-identical whatever the split, order, batching or merge tree.

Moments are the exception: they are float64 sums, equal to about 1e-13 of the sum of magnitudes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxq.errors import CalibrationError
from onnxq.numerics.channels import merge_channels, observe_channels
from onnxq.numerics.clusters import body_histogram, exact_mean, merge_clusters, split_sentinels
from onnxq.numerics.grid import binade
from onnxq.numerics.sample_clusters import Body, Rows, observe_rows
from onnxq.types.statistics import ChannelStatistics, Cluster, Sentinel, TensorStatistics

Shapes = tuple[tuple[int, int], ...]


class Accumulator:
    """Statistics under construction; what `result` returns depends on the multiset of samples alone.

    Most arrays go into the body without inspecting single magnitudes; only arrays that might start a new cluster are
    inspected closely.
    """

    def __init__(self, *, channel_axis: int | None = None, products: bool = False, counted: bool = True) -> None:
        """Make an empty one.

        Args:
            channel_axis: the axis to keep per-channel statistics for.
            products: whether to keep the sums of products of every two channels too.
            counted: whether values are counted in bins, which is most of the work; if not, there are histograms only
                where masks and values could not be distinguished without.
        """
        self._counted = counted
        self._channel_axis = channel_axis
        self._products = products
        self._channels: ChannelStatistics | None = None
        self._clusters: tuple[Cluster, ...] = ()
        self._body: Body | None = None
        self._nan = self._pos_inf = self._neg_inf = self._zeros = self._samples = 0
        self._shapes: Shapes | None = None

    def update(self, array: npt.NDArray[Any], *, batch_axis: int | None = None) -> None:
        """Add an array; see `observe`."""
        array = np.asarray(array)
        for axis in (batch_axis, self._channel_axis):
            if axis is not None and not -array.ndim <= axis < array.ndim:
                raise CalibrationError(f"an array of shape {list(array.shape)} has no axis {axis}")
        values = as_float(array)
        rows = as_rows(values, batch_axis)
        samples = rows.shape[0]
        if not samples:
            return
        shape = sample_shape(array.shape, batch_axis)
        self._shapes = merge_shapes(self._shapes, shape) if self._samples else shape
        if self._channel_axis is not None:
            channels = observe_channels(values, self._channel_axis, products=self._products)
            self._channels = merge_channels(self._channels, channels) if self._samples else channels
        self._samples += samples
        if rows.size:
            self._observe(rows)

    def add(self, statistics: TensorStatistics) -> None:
        """Add what was observed elsewhere."""
        if not statistics.samples:
            return
        both = bool(self._samples)
        self._shapes = merge_shapes(self._shapes, statistics.shapes) if both else statistics.shapes
        self._channels = merge_channels(self._channels, statistics.channels) if both else statistics.channels
        self._samples += statistics.samples
        self._nan += statistics.nan
        self._pos_inf += statistics.pos_inf
        self._neg_inf += statistics.neg_inf
        self._zeros += statistics.zeros
        self._settle(statistics.clusters)

    def result(self) -> TensorStatistics:
        """Return the statistics of everything added so far."""
        self._settle(())
        body, masks = split_sentinels(self._clusters)
        top = body[-1] if body else None
        return TensorStatistics(
            histogram=body_histogram(body) if body else None,
            minimum=min((part.minimum for part in body), default=0.0),
            maximum=max((part.maximum for part in body), default=0.0),
            count=sum(part.count for part in body),
            nan=self._nan,
            pos_inf=self._pos_inf,
            neg_inf=self._neg_inf,
            shapes=self._shapes,
            zeros=self._zeros,
            sentinels=tuple(Sentinel(minimum=m.minimum, maximum=m.maximum, count=m.count) for m in reversed(masks)),
            samples=self._samples,
            mean_minimum=exact_mean(top.sum_minima, top.samples) if top else 0.0,
            mean_maximum=exact_mean(top.sum_maxima, top.samples) if top else 0.0,
            channels=self._channels,
            clusters=self._clusters,
        )

    def _observe(self, rows: Rows) -> None:
        if self._body is not None and self._body.add(rows):
            return
        largest = float(max(-rows.min(), rows.max()))
        if Body.has_body(rows, largest):
            fresh = Body(largest, counted=self._counted)
            fresh.add(rows)
            self._zeros += fresh.zeros
            self._settle(fresh.clusters())
            return
        observed = observe_rows(rows, counted=self._counted)
        self._nan += observed.nan
        self._pos_inf += observed.pos_inf
        self._neg_inf += observed.neg_inf
        self._zeros += observed.zeros
        self._settle(observed.clusters)

    def _settle(self, more: tuple[Cluster, ...]) -> None:
        """Merge the body and further clusters into the clusters; start a new body where there is one."""
        if self._body is not None:
            self._zeros += self._body.zeros
            self._clusters = merge_clusters(self._clusters, self._body.clusters())
        self._clusters = merge_clusters(self._clusters, more)
        self._body = None
        if self._clusters and self._clusters[0].smallest == 0.0 < self._clusters[0].largest:
            above = binade(self._clusters[1].smallest) if len(self._clusters) > 1 else np.inf
            self._body = Body(self._clusters[0].largest, above, counted=self._counted)


def as_float(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array's values as float32 or float64, whichever holds them (int64 beyond 2^53 is rounded).

    Raises:
        CalibrationError: the array does not hold numbers.
    """
    if array.dtype in (np.float32, np.float64):
        return array
    if array.dtype.kind in "biu":
        return array.astype(np.float32 if array.dtype.itemsize <= 2 else np.float64)
    if array.dtype == np.float16 or array.dtype.name.startswith(("bfloat16", "float8")):
        return array.astype(np.float32)
    raise CalibrationError(f"values of type {array.dtype} cannot be calibrated; only numbers can")


def as_rows(values: npt.NDArray[Any], batch_axis: int | None) -> Rows:
    """Return values with one row for each index of `batch_axis`; one row in all for None."""
    if batch_axis is None:
        return np.ascontiguousarray(values).reshape(1, -1)
    rows = np.moveaxis(values, batch_axis, 0)
    return np.ascontiguousarray(rows).reshape(rows.shape[0], rows[:1].size)


def sample_shape(shape: tuple[int, ...], batch_axis: int | None) -> Shapes:
    """Return (smallest, largest) extent of each axis of an array, the batch axis counting as 1."""
    batch = None if batch_axis is None else batch_axis % len(shape)
    return tuple((1, 1) if axis == batch else (extent, extent) for axis, extent in enumerate(shape))


def merge_shapes(a: Shapes | None, b: Shapes | None) -> Shapes | None:
    """Return the extents that hold both; None where ranks differ."""
    if a is None or b is None or len(a) != len(b):
        return None
    return tuple((min(x[0], y[0]), max(x[1], y[1])) for x, y in zip(a, b, strict=True))


def empty() -> TensorStatistics:
    """Return the statistics of no arrays, which change nothing when merged."""
    return Accumulator().result()


def observe(
    array: npt.NDArray[Any], *, batch_axis: int | None = None, channel_axis: int | None = None
) -> TensorStatistics:
    """Return the statistics of one array.

    Args:
        array: floating point (float64, float32, float16, bfloat16, float8), integer or bool, any shape.
        batch_axis: the axis whose indices are samples; None: the array is one sample.
        channel_axis: the axis to keep per-channel statistics for; None: none.

    Raises:
        CalibrationError: an array of another type, or an axis that it does not have.
    """
    accumulator = Accumulator(channel_axis=channel_axis)
    accumulator.update(array, batch_axis=batch_axis)
    return accumulator.result()


def merge(a: TensorStatistics, b: TensorStatistics) -> TensorStatistics:
    """Return the statistics of all arrays of `a` and `b`."""
    accumulator = Accumulator()
    accumulator.add(a)
    accumulator.add(b)
    return accumulator.result()
