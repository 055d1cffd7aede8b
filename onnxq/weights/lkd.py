"""LKD: the float layer teaches the quantized one, whose codes and scales minimize the error of its output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from onnxq.errors import RecipeError
from onnxq.numerics.inverse import damped, fitting_damping
from onnxq.types.inputs import Inputs, Needs
from onnxq.types.scheme import QuantParams, Scheme
from onnxq.weights import weight_methods
from onnxq.weights._matrix import WeightMatrix, as_codes
from onnxq.weights._refine import Refinement
from onnxq.weights.mse import LeastSquaredError


@weight_methods.register("lkd")
@dataclass(frozen=True, kw_only=True, slots=True)
class LayerwiseDistillation:
    """Layer-wise knowledge distillation (Yao et al. 2022, ZeroQuant, section 4.3), one linear layer at a time.

    The student's output is x^T Q, the teacher's x^T w; the loss is their mean squared difference on calibration data,
    d^T E[x x^T] d with d = Q - w. The paper follows its gradient through the rounding. For a linear layer the best
    value of each code and scale, all others fixed, is known exactly (see `_refine`), so that here these are chosen in
    turn: no learning rate, no step that makes it worse, and weights may move by any number of steps of the grid, not by
    one as in `adaround`. The start is the grid of least squared error; without knowledge of the inputs it is `mse`.

    Attributes:
        rounds: over all scales and codes.
        damping: share of the mean diagonal added to the diagonal of E[x x^T], so that directions without data are not
            free; None: by the number of rows, as in `gptq`.
        negative_scales: as in `mse`.
    """

    rounds: int = 5
    damping: float | None = None
    negative_scales: bool = False
    needs: ClassVar[Needs] = Needs.PRODUCTS
    full_rank: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.rounds < 1 or (self.damping is not None and not 0 < self.damping <= 1):
            raise RecipeError("weight method 'lkd': rounds must be at least 1, damping above 0 and at most 1")

    def __call__(
        self,
        weight: npt.NDArray[np.float32],
        scheme: Scheme,
        *,
        min_scale: npt.NDArray[np.float32] | None = None,
        inputs: Inputs | None = None,
    ) -> tuple[npt.NDArray[Any], QuantParams]:
        """Quantize `weight`; see WeightMethod."""
        grid = LeastSquaredError(negative_scales=self.negative_scales, importance=True)
        codes, params = grid(weight, scheme, min_scale=min_scale, inputs=inputs)
        if inputs is None or inputs.products is None or not weight.size:
            return codes, params
        layout = WeightMatrix(shape=weight.shape, axis=inputs.axis, scheme=scheme)
        if not layout.fits:
            return codes, params
        floor = None if min_scale is None else layout.rows(np.broadcast_to(min_scale, params.scale.shape))
        student = Refinement(
            layout.matrix(weight),
            layout,
            gram=damped(inputs.products, self.damping or fitting_damping(len(inputs.products), inputs.rows)),
            codes=layout.matrix(codes),
            scale=layout.rows(params.scale),
            zero_point=layout.rows(params.zero_point),
        )
        for _ in range(self.rounds):
            student.choose_codes()
            student.choose_scales(floor)
        student.choose_codes()
        return layout.weight(as_codes(student.codes, scheme)), layout.params(
            student.scale, layout.rows(params.zero_point)
        )
