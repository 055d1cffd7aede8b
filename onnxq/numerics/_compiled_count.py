"""Extremes, zeros and bins of float32 values in one pass, compiled by numba; see `onnxq.numerics.grid`."""

from __future__ import annotations

import functools
from typing import Any

import numba
import numpy as np

from onnxq.numerics.grid import MAX_BINS, SIDE

_BLOCK = 8192  # values; these and their bins stay in a core's nearest cache
_BITS = np.int32(0x7FFFFFFF)

_floats = numba.types.Array(numba.float32, 1, "C", readonly=True)
_compiled = functools.partial(numba.njit, cache=True, nogil=True, error_model="numpy")


@_compiled()
def _extremes(bits: Any) -> Any:
    """Return the lowest and the highest key: integers in the order of the floats that they are computed from.

    NaN is beyond the infinities. Comparing floats themselves is not vectorized, as NaN has no place in their order.
    """
    low, high = _BITS, -_BITS
    for i in range(bits.size):
        key = bits[i] ^ ((bits[i] >> np.int32(31)) & _BITS)
        low, high = min(low, key), max(high, key)
    return low, high


@_compiled()
def _locate(values: Any, scale: Any, bins: Any) -> Any:
    """Find the bin of each value, and return how many are zero."""
    zeros = 0
    for i in range(values.size):
        bins[i] = np.int32(np.floor(values[i] * scale)) + np.int32(SIDE)
        zeros += values[i] == np.float32(0)
    return zeros


@_compiled([numba.types.UniTuple(numba.int64, 4)(_floats, numba.float32, numba.int32, numba.int64[:, ::1])])
def count(values: Any, scale: Any, limit: Any, counts: Any) -> Any:
    """Count values until one is not below the limit.

    Args:
        values: float32, contiguous.
        scale: 2^-level.
        limit: bits of the lowest magnitude that has no bin, a float32.
        counts: int64 (2, MAX_BINS), changed in place.

    Returns:
        How many values were counted, whole blocks; keys of the lowest and the highest of them; how many were zero.
    """
    lanes = np.zeros((2, MAX_BINS), np.uint32)
    first, second = lanes[0], lanes[1]
    bins = np.empty(_BLOCK, np.uint32)
    bits = values.view(np.int32)
    lowest, highest, zeros, done = _BITS, -_BITS, 0, 0
    while done < values.size:
        piece = values[done : done + _BLOCK]
        low, high = _extremes(bits[done : done + _BLOCK])
        if high >= limit or low <= ~limit:
            break
        lowest, highest = min(lowest, low), max(highest, high)
        zeros_here = _locate(piece, scale, bins)
        zeros += zeros_here
        # Equal neighbours, as a Relu's zeros, wait for each other unless they are counted in different places.
        spread = second if zeros_here * 8 > piece.size else first
        for i in range(0, piece.size - 1, 2):
            first[bins[i]] += np.uint32(1)
            spread[bins[i + 1]] += np.uint32(1)
        if piece.size % 2:
            first[bins[piece.size - 1]] += np.uint32(1)
        done += piece.size
    for i in range(MAX_BINS):
        counts[0, i] += first[i] + second[i]
    return done, np.int64(lowest), np.int64(highest), zeros
