"""GPTQ: round the weights of one feature after the other; the remaining ones compensate the error.

The line of work that leads here asks what to do with the other weights when one is changed, so that the squared error
of the output, d^T H d with H = E[x x^T], grows least:

- OBD, optimal brain damage (LeCun, Denker and Solla 1990): takes H for diagonal; other weights stay as they are.
- OBS, optimal brain surgeon (Hassibi, Stork and Wolff 1993): the whole H. Changing weight k by e is best answered by
  changing the others by e H^-1[:, k] / H^-1[k, k], and costs e^2 / H^-1[k, k].
- OBQ, optimal brain quantizer (Frantar, Singh and Alistarh 2022, Optimal Brain Compression): OBS for rounding. Of the
  remaining weights it rounds the one that costs least, and removes it from H^-1. Each output has its own order:
  O(outputs features^3).
- GPTQ (Frantar, Ashkboos, Hoefler and Alistarh 2022): one order for all outputs, which loses almost nothing in large
  layers. H^-1 with features removed one by one is then the same for all, and is read from one Cholesky factor:
  O(outputs features^2). Updates of far columns wait until a block is done and are one product of matrices.

In addition here: scales are searched when a group is reached, on weights with all corrections so far, errors
weighed by their cost, 1 / U[k, k]^2 (see `onnxq.numerics.inverse`). With `act_order` groups are taken by falling
weight of their features in H, and features likewise inside a group: groups stay runs of neighbours, as kernels want
them. After the last feature, `sweeps` rounds of coordinate descent choose every scale and every code again, all others
fixed, which GPTQ's order does not allow (see `_refine`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from onnxq.errors import ModelError, RecipeError
from onnxq.numerics.affine import params_from_range, weight_range
from onnxq.numerics.inverse import damped, fitting_damping, inverse_factor
from onnxq.numerics.scale_search import best_scales, searchable
from onnxq.types.inputs import Inputs, Needs
from onnxq.types.scheme import QuantParams, Scheme
from onnxq.weights import weight_methods
from onnxq.weights._matrix import Float32, Int32, WeightMatrix, as_codes, nearest_codes
from onnxq.weights._refine import Refinement
from onnxq.weights.mse import LeastSquaredError

_LAZY = 128  # features whose errors wait for one product of matrices
_MOST_DAMPING = 1.0


@weight_methods.register("gptq")
@dataclass(frozen=True, kw_only=True, slots=True)
class Gptq:
    """Round one feature after the other; later ones compensate the error, as far as their inputs are correlated.

    Without knowledge of the inputs (embeddings), and where groups do not lie along the features that are summed over,
    it is `mse` with importance.

    Attributes:
        damping: share of H's mean diagonal that is added to the diagonal; None: by the number of rows that H is from,
            see `onnxq.numerics.inverse.fitting_damping`.
        act_order: begin with the features that weigh most.
        sweeps: rounds of coordinate descent over all scales and codes, afterwards.
        steps: of the search for scales, as in `mse`.
        negative_scales: as in `mse`.
        sequential: layer by layer, each for the inputs that it gets from quantized layers before it; the calibration
            data runs once more.
    """

    damping: float | None = None
    act_order: bool = True
    sweeps: int = 0
    steps: int = 24
    negative_scales: bool = False
    sequential: bool = False
    full_rank: ClassVar[bool] = True

    @property
    def needs(self) -> Needs:
        """Return the products of inputs; a sequential run observes them itself."""
        return Needs.SQUARES if self.sequential else Needs.PRODUCTS

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.damping is not None and not 0 < self.damping <= _MOST_DAMPING:
            raise RecipeError(f"weight method 'gptq': damping must be above 0 and at most 1, not {self.damping}")
        if self.sweeps < 0:
            raise RecipeError(f"weight method 'gptq': sweeps must be 0 or more, not {self.sweeps}")

    def __call__(
        self,
        weight: npt.NDArray[np.float32],
        scheme: Scheme,
        *,
        min_scale: npt.NDArray[np.float32] | None = None,
        inputs: Inputs | None = None,
    ) -> tuple[npt.NDArray[Any], QuantParams]:
        """Quantize `weight`; see WeightMethod.

        Raises:
            ModelError: the inputs' products are not finite, or not those of real inputs.
        """
        layout = None if inputs is None else WeightMatrix(shape=weight.shape, axis=inputs.axis, scheme=scheme)
        if inputs is None or inputs.products is None or layout is None or not layout.fits or not weight.size:
            simple = LeastSquaredError(steps=self.steps, negative_scales=self.negative_scales, importance=True)
            return simple(weight, scheme, min_scale=min_scale, inputs=inputs)
        start = params_from_range(*weight_range(weight, scheme), scheme, min_scale=min_scale)
        solver = _Solver(self, layout, inputs, start, min_scale)
        return solver.solve(layout.matrix(weight))


class _Solver:
    """One weight's matrix, from its first feature to its last."""

    def __init__(self, method: Gptq, layout: WeightMatrix, inputs: Inputs, start: QuantParams, min_scale: Any) -> None:
        assert inputs.products is not None
        gram = inputs.products
        self._damping = method.damping or fitting_damping(len(gram), inputs.rows)
        self._method = method
        self._layout = layout
        self._scheme = layout.scheme
        self._scale: Float32 = layout.rows(start.scale)
        self._zero_point: Int32 = layout.rows(start.zero_point)
        floor = None if min_scale is None else np.broadcast_to(min_scale, start.scale.shape)
        self._floor = None if floor is None else layout.rows(floor)
        self._gram = gram
        self._order = self._make_order(np.diagonal(gram))
        self._factor = _factor(gram[np.ix_(self._order, self._order)], self._damping)

    def solve(self, weight: Float32) -> tuple[npt.NDArray[Any], QuantParams]:
        """Return codes and parameters of a matrix [features, outputs]."""
        order, size = self._order, self._layout.group
        remaining = weight[order]
        codes = np.empty_like(remaining)
        error = np.empty_like(remaining)
        factor = self._factor.astype(np.float32)
        lazy = size * max(1, _LAZY // size)
        if size >= len(remaining):
            lazy = _LAZY
            self._search(0, remaining, slice(0, len(remaining)))
        bounds = self._group_bounds()
        for begin, end in _runs(bounds, lazy):
            for k in range(begin, end):
                done = slice(begin, k)
                if k in bounds and size < len(remaining):
                    members = slice(k, bounds[k])
                    group = remaining[members] - factor[done, members].T @ error[done]
                    self._search(order[k] // size, group, members)
                number = min(order[k] // size, len(self._scale) - 1)
                scale, zero_point = self._scale[number], self._zero_point[number]
                value = remaining[k] - factor[done, k] @ error[done]
                codes[k] = nearest_codes(value, scale, zero_point, self._scheme)
                error[k] = (value - (codes[k] - zero_point) * scale) / factor[k, k]
            remaining[end:] -= factor[begin:end, end:].T @ error[begin:end]
        natural = np.empty_like(codes)
        natural[order] = codes
        if self._method.sweeps:
            natural = self._refined(weight, natural)
        return self._layout.weight(as_codes(natural, self._scheme)), self._layout.params(self._scale, self._zero_point)

    def _search(self, number: int, group: Float32, members: slice) -> None:
        """Choose the scales of one group, [members, outputs], as it is now."""
        if not searchable(self._scheme.dtype):
            return
        cost = (1 / np.diagonal(self._factor)[members] ** 2).astype(np.float32)
        together = self._scale.shape[1] == 1
        rows = group.reshape(1, -1) if together else np.ascontiguousarray(group.T)
        weights = np.repeat(cost, group.shape[1])[None] if together else np.broadcast_to(cost, rows.shape)
        scale, zero_point = best_scales(
            rows,
            self._scheme,
            importance=weights,
            min_scale=None if self._floor is None else self._floor[number],
            negative_scales=self._method.negative_scales and not self._scheme.narrow,
            steps=self._method.steps,
        )
        live = scale != 0
        self._scale[number] = np.where(live, scale, self._scale[number])
        self._zero_point[number] = np.where(live, zero_point, self._zero_point[number])

    def _refined(self, weight: Float32, codes: Float32) -> Float32:
        """Return better codes, and replace the scales by better ones."""
        gram = damped(self._gram, self._damping)
        refinement = Refinement(
            weight, self._layout, gram=gram, codes=codes, scale=self._scale, zero_point=self._zero_point
        )
        for _ in range(self._method.sweeps):
            refinement.choose_scales(self._floor)
            refinement.choose_codes()
        self._scale = refinement.scale
        return refinement.codes

    def _make_order(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Return the features in the order in which they are rounded; groups stay together."""
        count, size = len(weights), self._layout.group
        if not self._method.act_order:
            return np.arange(count)
        groups = [np.arange(begin, min(begin + size, count)) for begin in range(0, count, size)]
        groups.sort(key=lambda members: -float(weights[members].mean()))
        return np.concatenate([members[np.argsort(-weights[members], kind="stable")] for members in groups])

    def _group_bounds(self) -> dict[int, int]:
        """Return where groups begin, in the order of rounding, and where they end."""
        numbers = self._order // self._layout.group
        begins = np.flatnonzero(np.diff(numbers, prepend=-1))
        return dict(zip(begins.tolist(), [*begins[1:].tolist(), len(numbers)], strict=True))


def _runs(bounds: dict[int, int], lazy: int) -> list[tuple[int, int]]:
    """Cut the features into runs of about `lazy`, whole groups where those are smaller."""
    count = max(bounds.values())
    if len(bounds) == 1:
        return [(begin, min(begin + lazy, count)) for begin in range(0, count, lazy)]
    runs, begin = [], 0
    for end in bounds.values():
        if end - begin >= lazy or end == count:
            runs.append((begin, end))
            begin = end
    return runs


def _factor(gram: npt.NDArray[np.float64], damping: float) -> npt.NDArray[np.float64]:
    """Return U with U^T U = H^-1, damped more where that is needed for H to have an inverse."""
    if not np.isfinite(gram).all():
        raise ModelError("the inputs of a weight are not finite; calibrate with data that the model was made for")
    while damping <= _MOST_DAMPING:
        factor = inverse_factor(damped(gram, damping))
        if factor is not None:
            return factor
        damping *= 10
    raise ModelError("the products of a weight's inputs are not positive semidefinite; calibrate again")
