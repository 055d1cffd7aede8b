"""Codes of weights whose sums of pairs of products cannot saturate in 16 bits.

Without VNNI an x86-64 processor multiplies activations of 8 unsigned bits by signed weights and adds neighbouring
products in 16 bits that saturate (PMADDUBSW): a[2k] w[2k] + a[2k+1] w[2k+1], with a from 0 to some largest code, 255 at
most. Products of one sign add up, products of different signs stay in the range. So the sum is exact for all
activations as long as in every pair the positive codes, and the negative ones, add up to

    limit = floor(32767 / largest activation code),  128 for 255,  258 (more than two codes can reach) for 127.

So the scale of each channel grows until its heaviest pair fits, and no further: by 1.3 on average over the zoo's
weights, which costs 2.0 to 2.4 dB, where weights of 7 bits (every code up to 64) cost 6 dB. Keeping a smaller scale and
clipping the pairs that do not fit gains 0.03 dB over that, and is not done.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxq.numerics.affine import quantize
from onnxq.numerics.blocks import spread
from onnxq.numerics.scales import allowed_scale
from onnxq.types.scheme import QuantParams

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

_CHUNK = 1 << 20  # elements worked on at a time


def pair_limit(largest_activation: int) -> int:
    """Return the largest sum of two neighbouring codes of one sign, for activation codes from 0 to the given one."""
    return 32767 // largest_activation


def breaks(codes: npt.NDArray[Any], axes: tuple[int, ...], limit: int) -> int:
    """Return how many pairs of neighbours along `axes` add up to more than `limit`; see `fit_pairs` for arguments."""
    rows, _ = _rows(np.asarray(codes, np.int32), axes)
    first, second = rows[:, 0::2], rows[:, 1::2]
    return int(np.count_nonzero(_load(first, second) > limit))


def fit_pairs(
    weight: Float32, codes: npt.NDArray[Any], params: QuantParams, axes: tuple[int, ...], limit: int
) -> tuple[Int32, QuantParams]:
    """Return codes and parameters of which no pair can saturate, each channel as fine as that goes.

    Args:
        weight: float32, finite.
        codes: int8 in range, of the weight's shape, from a weight method.
        params: of the codes, zero points 0.
        axes: axes of the weight that the kernel runs along, slowest first; elements 2k and 2k + 1 are a pair.
        limit: of `pair_limit`.

    Returns:
        int32 codes and parameters; groups of elements under one scale without such a pair keep theirs.
    """
    rows, order = _rows(np.asarray(codes, np.int32), axes)
    groups = _rows(np.broadcast_to(_group_numbers(weight.shape, params), weight.shape), axes)[0][:, 0]
    bad = np.zeros(params.scale.size, bool)
    np.logical_or.at(bad, groups, (_load(rows[:, 0::2], rows[:, 1::2]) > limit).any(axis=1))
    if not bad.any():
        return np.asarray(codes, np.int32), params
    x = _rows(weight, axes)[0]
    scale = np.array(params.scale, np.float32).reshape(-1)
    factors = np.ones(scale.size, np.float32)
    chosen = np.flatnonzero(bad[groups])
    for part in _parts(chosen, x.shape[1]):
        target = x[part] / scale[groups[part], None]
        np.maximum.at(factors, groups[part], _load(target[:, 0::2], target[:, 1::2]).max(axis=1) / limit)
    scale = np.where(bad, allowed_scale(scale * factors, params.scheme.scale_type, up=True), scale)
    grown = replace(params, scale=scale.reshape(params.scale.shape))
    # Where the scale stays, so do the method's own choices between neighbouring codes.
    stays = spread(np.asarray(~bad).reshape(params.scale.shape), weight.shape, params.scheme.granularity)
    fitted = _rows(np.where(stays, codes, quantize(weight, grown)).astype(np.int32), axes)[0]
    for part in _parts(chosen, x.shape[1]):
        fitted[part] = _within(x[part] / scale[groups[part], None], fitted[part], limit)
    return _unrows(fitted, weight.shape, order), grown


def _within(target: Float32, codes: Int32, limit: int) -> Int32:
    """Return codes whose pairs over the limit are lowered to it, both elements by about as much."""
    result = codes.copy()
    first, second = result[:, 0::2], result[:, 1::2]
    heavy = _load(first, second) > limit
    wanted = [np.abs(side)[heavy] for side in (target[:, 0::2], target[:, 1::2])]
    signs = np.sign(first[heavy])
    lead = np.rint((wanted[0] - wanted[1] + limit) / 2).astype(np.int32)
    most = min(limit, 127)
    lead = np.clip(lead, limit - most, most)
    first[heavy], second[heavy] = signs * lead, signs * (limit - lead)
    return result


def _load(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the larger sum of each pair: that of its positive codes, or the negated one of its negative codes."""
    zero = first.dtype.type(0)
    up = np.maximum(first, zero) + np.maximum(second, zero)
    down = np.minimum(first, zero) + np.minimum(second, zero)
    return np.asarray(np.maximum(up, -down))


def _rows(array: npt.NDArray[Any], axes: tuple[int, ...]) -> tuple[npt.NDArray[Any], tuple[int, ...]]:
    """Return an array as rows along `axes`, padded to an even number of elements, and the order of its axes."""
    order = (*(axis for axis in range(array.ndim) if axis not in axes), *axes)
    rows = array.transpose(order).reshape(-1, int(np.prod([array.shape[axis] for axis in axes])))
    padded = np.zeros((len(rows), rows.shape[1] + rows.shape[1] % 2), array.dtype)
    padded[:, : rows.shape[1]] = rows
    return padded, order


def _unrows(rows: Int32, shape: tuple[int, ...], order: tuple[int, ...]) -> Int32:
    transposed = tuple(shape[axis] for axis in order)
    width = int(np.prod(shape)) // max(len(rows), 1)
    back = tuple(np.argsort(order))
    return np.ascontiguousarray(rows[:, :width].reshape(transposed).transpose(back))


def _group_numbers(shape: tuple[int, ...], params: QuantParams) -> npt.NDArray[np.int64]:
    numbers = np.arange(params.scale.size).reshape(params.scale.shape)
    return np.asarray(spread(numbers, shape, params.scheme.granularity))


def _parts(chosen: npt.NDArray[Any], width: int) -> list[npt.NDArray[Any]]:
    return np.array_split(chosen, max(1, len(chosen) * width // _CHUNK))
