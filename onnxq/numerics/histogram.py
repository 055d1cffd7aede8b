"""Observing and merging: arrays to statistics, bit-identical whatever the split, order, batching or merge tree.

Moments are the exception: they are float64 sums, equal to about 1e-13 of the sum of magnitudes.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from onnxq.numerics.accumulator import Accumulator
from onnxq.numerics.grid import MAX_BINS
from onnxq.types.statistics import TensorStatistics

__all__ = ["MAX_BINS", "Accumulator", "empty", "merge", "observe"]


def empty() -> TensorStatistics:
    """Return the statistics of nothing, which change nothing when merged."""
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
    """Return the statistics of all that `a` and `b` saw."""
    accumulator = Accumulator()
    accumulator.add(a)
    accumulator.add(b)
    return accumulator.result()
