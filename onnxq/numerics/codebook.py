"""Non-uniform quantization: each group of numbers has a table of values, and codes are indices into it.

The table holds the centroids of exact one-dimensional k-means, the scalar quantizer of least squared error (Lloyd 1982,
Max 1960; for weights Han et al. 2016, Deep Compression). In a model `Gather` looks the codes up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxq.errors import RecipeError
from onnxq.numerics.blocks import groups_as_rows, parameter_shape, rows_as_array
from onnxq.numerics.kmeans import kmeans_1d
from onnxq.types.scheme import Granularity

Float32 = npt.NDArray[np.float32]

_MOST_POINTS = 4096  # a group of more values is first reduced to at most as many runs of neighbours
_CHUNK = 1 << 16  # values worked on at a time


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Codebook:
    """Tables of values.

    Attributes:
        granularity: which elements share a table.
        table: float32, ascending; the scales' shape (see numerics.blocks) and one axis more, of 2^bits values.
    """

    granularity: Granularity
    table: npt.NDArray[np.float32]


def codebook_quantize(
    x: npt.NDArray[Any], bits: int, granularity: Granularity, *, importance: npt.NDArray[Any] | None = None
) -> tuple[npt.NDArray[np.uint8], Codebook]:
    """Return the codes of `x` and the codebook of least squared error.

    Groups of up to 4096 values get the exact optimum; larger ones that of about 4096 runs of neighbouring values.

    Args:
        x: finite; computed in float32. bits: 1 to 8.
        importance: weight of each element's squared error, >= 0, broadcastable to `x`.

    Raises:
        RecipeError: bits out of range.
    """
    if not 1 <= bits <= 8:
        raise RecipeError(f"a codebook takes 1 to 8 bits, not {bits}")
    values = groups_as_rows(x.astype(np.float32, copy=False), granularity)
    weights = np.ones(x.shape, np.float32) if importance is None else np.broadcast_to(importance, x.shape)
    weights = groups_as_rows(weights, granularity)  # 0 where a short block is padded
    codes = np.empty(values.shape, np.uint8)
    table = np.empty((len(values), 1 << bits), np.float32)
    step = max(1, _CHUNK // max(values.shape[1], 1))
    for begin in range(0, len(values), step):
        part = slice(begin, begin + step)
        points, counts = _summarized(values[part], weights[part])
        table[part] = kmeans_1d(points, 1 << bits, weights=counts)
        codes[part] = _nearest(values[part], table[part])
    shape = (*parameter_shape(x.shape, granularity), 1 << bits)
    return rows_as_array(codes, x.shape, granularity), Codebook(granularity=granularity, table=table.reshape(shape))


def codebook_dequantize(codes: npt.NDArray[Any], codebook: Codebook) -> npt.NDArray[np.float32]:
    """Return the values of `codes`, float32 of the same shape."""
    rows = groups_as_rows(codes, codebook.granularity)
    table = codebook.table.reshape(-1, codebook.table.shape[-1])
    values = np.take_along_axis(table, rows.astype(np.intp), axis=1)
    return rows_as_array(values, codes.shape, codebook.granularity)


def _summarized(values: Float32, weights: Float32) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return at most _MOST_POINTS points and weights a row, of runs of neighbours where there are more.

    Half of the runs hold equally many values and half are equally wide: fine in the bulk, and fine in the tails.
    """
    if values.shape[1] <= _MOST_POINTS:
        return values, weights
    points = np.zeros((len(values), _MOST_POINTS))
    counts = np.zeros_like(points)
    for row, (unsorted, unsorted_weight) in enumerate(zip(values, weights, strict=True)):
        order = np.argsort(unsorted, kind="stable")
        place, weight = unsorted[order].astype(np.float64), unsorted_weight[order].astype(np.float64)
        even = np.linspace(0, len(place), _MOST_POINTS // 2, endpoint=False).astype(np.intp)
        wide = np.searchsorted(place, np.linspace(place[0], place[-1], _MOST_POINTS // 2, endpoint=False))
        begins = np.union1d(even, wide)
        sums = np.add.reduceat(weight, begins)
        means = np.add.reduceat(weight * place, begins) / np.where(sums > 0, sums, 1)
        points[row, : len(begins)], counts[row, : len(begins)] = means, sums
    return points, counts


def _nearest(values: Float32, table: Float32) -> npt.NDArray[np.uint8]:
    """Return the index of the nearest entry of each row's table: a binary search among the midpoints."""
    borders = (table[:, 1:] + table[:, :-1]) / 2
    codes = np.zeros(values.shape, np.intp)
    step = table.shape[1] // 2
    while step:
        above = values > np.take_along_axis(borders, codes + step - 1, axis=1)
        codes += np.where(above, step, 0)
        step //= 2
    return codes.astype(np.uint8)
