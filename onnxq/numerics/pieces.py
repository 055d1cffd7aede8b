"""Arrays of samples, read in pieces that stay in a core's own cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxq.errors import CalibrationError
from onnxq.numerics.grid import CHUNK

# float32 or float64, shape (samples, values of a sample), contiguous
Rows = npt.NDArray[Any]


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


def pieces(rows: Rows) -> Iterator[tuple[slice, Rows]]:
    """Yield (samples, their values or a part of them), at most CHUNK elements at a time."""
    samples, size = rows.shape
    if not rows.size:
        return
    step = max(1, CHUNK // size)
    for first in range(0, samples, step):
        for start in range(0, size, CHUNK):
            yield slice(first, first + step), rows[first : first + step, start : start + CHUNK]


def each(rows: Rows) -> Iterator[tuple[slice, Rows]]:
    """Yield (sample, its values), one sample at a time."""
    return ((slice(index, index + 1), rows[index : index + 1]) for index in range(rows.shape[0]))
