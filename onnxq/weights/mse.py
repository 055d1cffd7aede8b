"""The scale of each group that gives the least squared error of its weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxq.errors import RecipeError
from onnxq.numerics.affine import params_from_range, quantize, weight_range
from onnxq.numerics.blocks import groups_as_rows, parameter_shape
from onnxq.numerics.scale_search import best_scales, searchable
from onnxq.types.inputs import Inputs, Needs
from onnxq.types.scheme import QuantParams, Scheme
from onnxq.weights import weight_methods


@weight_methods.register("mse")
@dataclass(frozen=True, kw_only=True, slots=True)
class LeastSquaredError:
    """Search the scale and zero point of least squared error for each group; see onnxq.numerics.scale_search.

    Attributes:
        steps: scales tried for each group.
        negative_scales: allow them in symmetric schemes that use all codes (`narrow: false`). For weight-only kernels,
            which multiply by the scale whatever its sign; integer kernels and their biases need positive ones.
        importance: weigh each error by the mean square of the input that the weight multiplies, observed in
            calibration: the error of the output is then least if inputs are uncorrelated.
    """

    steps: int = 24
    negative_scales: bool = False
    importance: bool = False

    @property
    def needs(self) -> Needs:
        """Return the mean squares of the inputs, where errors are weighed by them."""
        return Needs.SQUARES if self.importance else Needs.NOTHING

    def __post_init__(self) -> None:
        """Check the number of steps."""
        if self.steps < 2:
            raise RecipeError(f"weight method 'mse': steps must be at least 2, not {self.steps}")

    def __call__(
        self,
        weight: npt.NDArray[np.float32],
        scheme: Scheme,
        *,
        min_scale: npt.NDArray[np.float32] | None = None,
        inputs: Inputs | None = None,
    ) -> tuple[npt.NDArray[Any], QuantParams]:
        """Quantize `weight`; see WeightMethod."""
        params = params_from_range(*weight_range(weight, scheme), scheme, min_scale=min_scale)
        if searchable(scheme.dtype) and weight.size:
            shape = parameter_shape(weight.shape, scheme.granularity)
            importance = None
            if self.importance and inputs is not None:
                each = np.broadcast_to(inputs.importance(weight.shape), weight.shape)
                importance = groups_as_rows(each, scheme.granularity)
            scale, zero_point = best_scales(
                groups_as_rows(weight, scheme.granularity),
                scheme,
                importance=importance,
                min_scale=None if min_scale is None else np.broadcast_to(min_scale, shape).reshape(-1),
                negative_scales=self.negative_scales and not scheme.narrow,
                steps=self.steps,
            )
            scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
            live = scale != 0
            params = replace(
                params,
                scale=np.where(live, scale, params.scale),
                zero_point=np.where(live, zero_point, params.zero_point),
            )
        return quantize(weight, params), params
