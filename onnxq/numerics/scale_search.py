"""The scale (and zero point) of each group of numbers that round to nearest with the least squared error.

For codes q that are fixed, relative to the zero point, the best scale is that of least squares,

    s = <x, q> / <q, q>,  with error |x|^2 - <x, q>^2 / <q, q>,

and for a fixed scale the best codes are the nearest ones. The error has many local minima in s, so the search tries
scales on a geometric grid, from above the one that clips nothing down to one that clips the tails of a Gaussian;
asymmetric schemes also try positions of the window of codes. The best of these is improved by alternating the two
steps above (Lloyd's iteration with codes bound to an affine grid; the refinement of scales by least squares is
llama.cpp's `make_qx_quants`, the grid that of OMSE, Choukroun et al. 2019, Low-bit Quantization of Neural Networks
for Efficient Inference). All sums may be weighted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from onnxq.numerics.floats import round_to_format
from onnxq.numerics.scales import allowed_scale
from onnxq.types.scheme import QuantType, Scheme

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_CHUNK = 1 << 16  # elements worked on at a time: they stay in the second-level cache, and memory stays bounded
_ROUNDS = 3  # of Lloyd's iteration: further ones gain less than 0.01%


def best_scales(
    groups: Float32,
    scheme: Scheme,
    *,
    importance: Float32 | None = None,
    min_scale: npt.NDArray[Any] | None = None,
    negative_scales: bool = False,
    steps: int = 24,
) -> tuple[Float32, npt.NDArray[np.int32]]:
    """Return scale and zero point for each row of `groups`, shape (rows, elements of a group).

    Args:
        groups: finite. Zeros that pad a short group change nothing: they are codes exactly.
        scheme: type, symmetry, code range and scale type; rounding is to nearest, the granularity plays no part.
        importance: weight of each element's squared error, >= 0, shape of `groups`.
        min_scale: smallest magnitude of a scale, shape (rows,).
        negative_scales: allow them where the codes are symmetric except for one (-8..7): the extra code then serves
            whichever side needs it.
        steps: scales on the grid.

    Returns:
        float32 scales and int32 zero points of shape (rows,). A row without anything to gain (zeros) gets scale 0:
        the caller chooses.
    """
    rows, width = groups.shape
    scale = np.zeros(rows, np.float32)
    zero_point = np.zeros(rows, np.int32)
    search = _ScaleSearch(scheme=scheme, negative=negative_scales, steps=steps)
    count = max(1, _CHUNK // max(width, 1))
    for start in range(0, rows, count):
        part = slice(start, start + count)
        floor = np.zeros(len(groups[part])) if min_scale is None else np.asarray(min_scale[part], np.float64)
        scale[part], zero_point[part] = search(groups[part], None if importance is None else importance[part], floor)
    return scale, zero_point


def searchable(dtype: QuantType) -> bool:
    """Return whether a search over scales can help: float16 and bfloat16 have none, int32 gains nothing."""
    return dtype not in (QuantType.FLOAT16, QuantType.BFLOAT16, QuantType.INT32)


@dataclass(frozen=True, kw_only=True, slots=True)
class _ScaleSearch:
    scheme: Scheme
    negative: bool
    steps: int

    def __call__(self, x: Float32, importance: Float32 | None, floor: Float64) -> tuple[Float32, npt.NDArray[np.int32]]:
        # Powers of two bring each row's largest value near 1, exactly: no square or sum leaves float32.
        exponent = np.frexp(np.abs(x).max(axis=1, initial=0))[1]
        rows = _RowSearch(np.ldexp(x, -exponent[:, None]), importance, self.scheme, exponent, floor)
        for scale, lowest in self._candidates(rows.x):
            rows.offer(scale, lowest)
        for _ in range(_ROUNDS):
            for shift in (0,) if self.scheme.symmetric else (0, -1, 1):
                rows.offer(rows.scale.copy(), self._in_range(rows.lowest + shift))
        return self._result(rows, exponent)

    def _in_range(self, lowest: Float64) -> Float64:
        qmin, qmax = self.scheme.code_range
        return lowest if self.scheme.symmetric else np.clip(lowest, qmin - qmax, 0)

    def _candidates(self, x: Float32) -> Iterator[tuple[Float64, Float64]]:
        """Yield pairs of scales and lowest codes (relative to the zero point), the unclipped range first."""
        qmin, qmax = self.scheme.code_range
        span = qmax - qmin
        middle = self.scheme.middle
        low = x.min(axis=1, initial=0).astype(np.float64)
        high = x.max(axis=1, initial=0).astype(np.float64)
        widest = np.maximum(-low, high) / (qmax - middle) if self.scheme.symmetric else (high - low) / span
        spread = np.sqrt(np.einsum("rn,rn->r", x, x) / max(x.shape[1], 1))
        # A Gaussian's best step is 4 to 8 sigma / 2^bits for 2 to 8 bits; heavier tails want a wider one.
        narrowest = np.minimum(0.75 * widest, spread * (2.5 / (span + 1)))
        # Few values may lie nearest to the multiples of a scale that leaves codes unused.
        start = 1.3 * widest
        for step in range(self.steps):
            ratio = (step - 1) / max(self.steps - 2, 1)
            scale = widest if step == 0 else start ** (1 - ratio) * narrowest**ratio
            if self.scheme.symmetric:
                for window in (qmin - middle, middle - qmax) if self.negative else (qmin - middle,):
                    yield scale, np.full(len(x), float(window))
                continue
            with np.errstate(divide="ignore", invalid="ignore"):
                first = np.nan_to_num(np.rint(low / scale))
                slack = np.nan_to_num(np.ceil((high - low) / scale)) - span
            places = int(np.clip(np.ceil(np.quantile(slack, 0.9)), 0, 6)) + 1
            for place in range(-1, places + 1):
                yield scale, self._in_range(np.rint(first + slack * (place / places)))

    def _result(self, rows: _RowSearch, exponent: npt.NDArray[Any]) -> tuple[Float32, npt.NDArray[np.int32]]:
        qmin, _ = self.scheme.code_range
        zero_point = (qmin - rows.lowest).astype(np.int32)
        scale = allowed_scale(np.ldexp(rows.scale, exponent), self.scheme.scale_type)
        if self.scheme.symmetric:
            scale = np.where(rows.lowest == qmin - self.scheme.middle, scale, -scale)
            zero_point[:] = self.scheme.middle
        return np.where(rows.live(), scale, np.float32(0)), zero_point


class _RowSearch:
    """Rows of numbers with the best parameters so far, all scaled to near 1 by 2^-exponent."""

    def __init__(
        self, x: Float32, importance: Float32 | None, scheme: Scheme, exponent: npt.NDArray[Any], floor: Float64
    ) -> None:
        # Where rows are short they lie side by side in memory, so that operations run along the long axis.
        order: Literal["C", "F"] = "F" if x.shape[1] < 1024 else "C"
        self.x = np.array(x, np.float32, order=order)
        self.scale: Float64 = np.ones(len(x))
        self.lowest: Float64 = np.zeros(len(x))
        self.error: Float64 = np.full(len(x), np.inf)
        self._scheme = scheme
        self._exponent = exponent
        self._floor = floor
        self._buffers = np.empty_like(self.x[:, :_CHUNK]), np.empty_like(self.x[:, :_CHUNK])
        self._importance = None
        if importance is not None:
            largest = importance.max(axis=1, keepdims=True, initial=0)
            self._importance = np.array(importance / np.where(largest > 0, largest, 1), np.float32, order=order)

    def offer(self, scale: Float64, lowest: Float64) -> None:
        """Keep the least-squares scale of the offered codes, and their lowest code, where that is better."""
        scale = self._allowed(scale)
        square, cross, rest = self._sums(scale, lowest)
        fitted = self._allowed(scale * (1 + cross / np.where(square > 0, square, 1)))
        change = 1 - fitted / scale
        # |x - fitted q|^2 with x = scale (q + r): no difference of large numbers, as |x|^2 - <x, q>^2 / <q, q> has.
        error = scale**2 * (change**2 * square + 2 * change * cross + rest)
        better = error < self.error
        self.error[better] = error[better]
        self.scale[better] = fitted[better]
        self.lowest[better] = lowest[better]

    def live(self) -> npt.NDArray[np.bool_]:
        """Return the rows whose error is below that of all zeros."""
        weighted = self.x if self._importance is None else self.x * self._importance
        return np.asarray(self.error < np.einsum("rn,rn->r", weighted, self.x))

    def _allowed(self, scale: Float64) -> Float64:
        real = np.maximum(np.ldexp(scale, self._exponent), self._floor)
        up = np.asarray(real == self._floor)
        kind = self._scheme.scale_type
        real = np.where(up, allowed_scale(real, kind, up=True), allowed_scale(real, kind)).astype(np.float64)
        return np.asarray(np.ldexp(real, -self._exponent))

    def _sums(self, scale: Float64, lowest: Float64) -> tuple[Float64, Float64, Float64]:
        """Return <q, q>, <q, r> and <r, r> of each row, q the codes relative to the zero point, r = x / scale - q."""
        qmin, qmax = self._scheme.code_range
        inverse = (1 / scale).astype(np.float32)[:, None]
        low, high = lowest.astype(np.float32)[:, None], (lowest + (qmax - qmin)).astype(np.float32)[:, None]
        square, cross, rest = np.zeros((3, len(scale)))
        for start in range(0, self.x.shape[1], _CHUNK):
            part = slice(start, start + _CHUNK)
            x = self.x[:, part]
            residual, codes = (buffer[:, : x.shape[1]] for buffer in self._buffers)
            np.multiply(x, inverse, out=residual)
            if self._scheme.dtype.is_float:
                codes[...] = round_to_format(residual, self._scheme.dtype, np.rint)
            else:
                np.rint(residual, out=codes)
                np.maximum(codes, low, out=codes)  # faster than np.clip, which broadcasts badly
                np.minimum(codes, high, out=codes)
            np.subtract(residual, codes, out=residual)
            importance = None if self._importance is None else self._importance[:, part]
            square += _inner(codes, codes, importance)
            cross += _inner(codes, residual, importance)
            rest += _inner(residual, residual, importance)
        return square, cross, rest


def _inner(a: Float32, b: Float32, importance: Float32 | None) -> Float32:
    return np.asarray(np.einsum("rn,rn->r", a if importance is None else a * importance, b))
