"""HQQ: scale and zero point of each group for an error that forgives outliers; no data needed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from onnxq.errors import RecipeError
from onnxq.numerics.affine import quantize
from onnxq.numerics.blocks import groups_as_rows, parameter_shape
from onnxq.numerics.scale_search import searchable
from onnxq.numerics.scales import allowed_scale
from onnxq.types.inputs import Inputs, Needs
from onnxq.types.scheme import QuantParams, Scheme
from onnxq.weights import weight_methods
from onnxq.weights._matrix import Float32, nearest_codes
from onnxq.weights.mse import LeastSquaredError

_CHUNK = 1 << 16  # elements worked on at a time


@weight_methods.register("hqq")
@dataclass(frozen=True, kw_only=True, slots=True)
class HalfQuadratic:
    """Minimize sum |w - s (q - z)|^p with p < 1, by half-quadratic splitting (Badri and Shaji 2023, HQQ).

    An auxiliary e holds what the grid misses: alternately e = shrink(w - s (q - z)), the minimizer of
    |e|^p + beta / 2 (e - (w - s (q - z)))^2, and scale and zero point of least squares for w - e; beta grows. The
    paper fixes the scale and lets the zero point be any number. Kernels and ONNX need codes for zero points, so
    that here scales are fitted too and zero points are rounded; the start is the grid of least squared error, and the
    best grid of all rounds is kept.

    Attributes:
        p: exponent of the error, above 0 and at most 1.
        beta: weight of the quadratic term at first, in units of 1 / (largest weight of the group)^2.
        growth: its factor for each round.
        rounds: how many.
        negative_scales: as in `mse`.
    """

    p: float = 0.7
    beta: float = 10.0
    growth: float = 1.01
    rounds: int = 20
    negative_scales: bool = False
    needs: ClassVar[Needs] = Needs.NOTHING

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 < self.p <= 1:
            raise RecipeError(f"weight method 'hqq': p must be above 0 and at most 1, not {self.p}")
        if self.beta <= 0 or self.growth < 1 or self.rounds < 1:
            raise RecipeError("weight method 'hqq': beta must be above 0, growth at least 1 and rounds at least 1")

    def __call__(
        self,
        weight: npt.NDArray[np.float32],
        scheme: Scheme,
        *,
        min_scale: npt.NDArray[np.float32] | None = None,
        inputs: Inputs | None = None,
    ) -> tuple[npt.NDArray[Any], QuantParams]:
        """Quantize `weight`; see WeightMethod."""
        start = LeastSquaredError(negative_scales=self.negative_scales)
        codes, params = start(weight, scheme, min_scale=min_scale)
        if not searchable(scheme.dtype) or not weight.size:
            return codes, params
        shape = parameter_shape(weight.shape, scheme.granularity)
        groups = groups_as_rows(weight, scheme.granularity)
        floor = np.zeros(shape) if min_scale is None else np.broadcast_to(min_scale, shape)
        grid = params.scale.reshape(-1), params.zero_point.reshape(-1)
        scale, zero_point = grid[0].copy(), grid[1].copy()
        step = max(1, _CHUNK // max(groups.shape[1], 1))
        for begin in range(0, len(groups), step):
            part = slice(begin, begin + step)
            scale[part], zero_point[part] = self._improve(
                groups[part], scheme, scale[part], zero_point[part], floor.reshape(-1)[part]
            )
        params = replace(params, scale=scale.reshape(shape), zero_point=zero_point.reshape(shape))
        return quantize(weight, params), params

    def _improve(
        self, groups: Float32, scheme: Scheme, scale: Float32, zero_point: npt.NDArray[np.int32], floor: Any
    ) -> tuple[Float32, npt.NDArray[np.int32]]:
        """Return better scales and zero points of rows, or the given ones where none is better."""
        unit = np.abs(groups).max(axis=1, initial=0)
        unit = np.where(unit > 0, unit, np.float32(1)).astype(np.float32)
        w, floor = groups / unit[:, None], (floor / unit).astype(np.float32)
        scale = (scale / unit).astype(np.float32)
        best, best_zero, best_error = scale.copy(), zero_point.copy(), np.full(len(w), np.inf)
        beta = self.beta
        for _ in range(self.rounds + 1):
            codes = nearest_codes(w, scale[:, None], zero_point[:, None], scheme)
            steps = codes - zero_point[:, None]
            missed = w - steps * scale[:, None]
            error = (np.abs(missed) ** self.p).sum(axis=1)
            better = error < best_error
            best[better], best_zero[better], best_error[better] = scale[better], zero_point[better], error[better]
            aimed = w - _shrink(missed, beta, self.p)
            scale, zero_point = _fit(aimed, codes, scale, zero_point, scheme)
            scale = np.sign(scale) * np.maximum(np.abs(scale), floor)
            beta *= self.growth
        fitted = np.abs(best) * unit
        allowed = allowed_scale(fitted, scheme.scale_type)
        size = np.where(allowed >= floor * unit, allowed, fitted)
        return (np.sign(best) * size).astype(np.float32), best_zero


def _shrink(x: Float32, beta: float, p: float) -> Float32:
    """Return the generalized soft threshold sign(x) max(|x| - |x|^(p - 1) / beta, 0)."""
    size = np.abs(x)
    with np.errstate(divide="ignore"):
        return np.asarray(np.sign(x) * np.maximum(size - size ** np.float32(p - 1) / np.float32(beta), 0))


def _fit(
    aimed: Float32, codes: Float32, scale: Float32, zero_point: npt.NDArray[np.int32], scheme: Scheme
) -> tuple[Float32, npt.NDArray[np.int32]]:
    """Return zero point (rounded mean, as in the paper) and then scale of least squares for fixed codes."""
    low, high = scheme.code_range
    if not scheme.symmetric:
        center = (codes - aimed / scale[:, None]).mean(axis=1)
        zero_point = np.clip(np.rint(center), low, high).astype(np.int32)
    steps = codes - zero_point[:, None]
    square = np.einsum("rn,rn->r", steps, steps)
    fitted = np.einsum("rn,rn->r", steps, aimed) / np.where(square > 0, square, 1)
    usable = np.isfinite(fitted) & (fitted * scale > 0)
    return np.where(usable, fitted, scale).astype(np.float32), zero_point
