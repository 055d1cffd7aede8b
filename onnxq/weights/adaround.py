"""AdaRound: learn for every weight whether to round it down or up, so that the layer's output changes least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from onnxq.errors import RecipeError
from onnxq.types.inputs import Inputs, Needs
from onnxq.types.scheme import QuantParams, Scheme
from onnxq.weights import weight_methods
from onnxq.weights._descent import Adam
from onnxq.weights._matrix import Float32, WeightMatrix, as_codes
from onnxq.weights.mse import LeastSquaredError

_LOW, _HIGH = -0.1, 1.1  # of the stretched sigmoid: gamma and zeta of the paper
_START, _END = 20.0, 2.0  # of beta: at first the penalty leaves most of (0, 1) alone, in the end nothing
_WARM_UP = 0.2  # share of the rounds without penalty


@weight_methods.register("adaround")
@dataclass(frozen=True, kw_only=True, slots=True)
class AdaptiveRounding:
    """Adaptive rounding (Nagel, Amjad, van Baalen, Louizos and Blankevoort 2020, Up or Down?).

    On the grid of least squared error, code = floor(w / s) + h(v) with the stretched sigmoid
    h(v) = clip(1.2 sigmoid(v) - 0.1, 0, 1); v is learned by Adam on

        d^T E[x x^T] d (the output's squared error)  +  penalty * sum(1 - |2 h(v) - 1|^beta),

    whose second term drives every h to 0 or 1 as beta falls. The error needs the products of inputs only, so that
    rounds cost the same whatever the amount of data. Never worse than the grid's nearest codes on those products:
    those are kept where they are better. Without knowledge of the inputs it is `mse`.

    Attributes:
        rounds: of Adam.
        rate: its learning rate.
        penalty: weight of the second term, in units of the error that nearest codes make, for each weight.
        negative_scales: as in `mse`.
    """

    rounds: int = 300
    rate: float = 0.1
    penalty: float = 2.0
    negative_scales: bool = False
    needs: ClassVar[Needs] = Needs.PRODUCTS
    full_rank: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.rounds < 1 or self.rate <= 0 or self.penalty <= 0:
            raise RecipeError("weight method 'adaround': rounds must be at least 1, rate and penalty above 0")

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
        if inputs is None or inputs.products is None or scheme.dtype.is_float or not weight.size:
            return codes, params
        layout = WeightMatrix(shape=weight.shape, axis=inputs.axis, scheme=scheme)
        if not layout.fits:
            return codes, params
        learned = self._learn(layout.matrix(weight), layout, params, layout.matrix(codes), inputs.products)
        return layout.weight(as_codes(learned, scheme)), params

    def _learn(
        self,
        weight: Float32,
        layout: WeightMatrix,
        params: QuantParams,
        nearest: Any,
        products: npt.NDArray[np.float64],
    ) -> Float32:
        """Return the codes of a matrix [features, outputs]."""
        low, high = layout.scheme.code_range
        number = np.arange(len(weight)) // layout.group
        scale, zero_point = layout.rows(params.scale)[number], layout.rows(params.zero_point)[number]
        gram = products.astype(np.float32)
        place = weight / scale
        floor = np.floor(place)
        share = np.clip(place - floor, 0.01, 0.99)
        v = -np.log((_HIGH - _LOW) / (share - _LOW) - 1).astype(np.float32)
        missed = (nearest - zero_point) * scale - weight
        before = _error(missed, gram)
        unit = self.penalty * before / weight.size
        adam = Adam(v, self.rate)
        for step in range(self.rounds):
            sigmoid = 1 / (1 + np.exp(-v))
            wide = (_HIGH - _LOW) * sigmoid + _LOW
            h = np.clip(wide, 0, 1)
            code = floor + h + zero_point
            change = (np.clip(code, low, high) - zero_point) * scale - weight
            inside = (wide > 0) & (wide < 1)
            gradient = 2 * (gram @ change) * scale
            gradient[(code < low) | (code > high)] = 0
            done = (step / self.rounds - _WARM_UP) / (1 - _WARM_UP)
            if done > 0:
                beta = _END + (_START - _END) * (1 + np.cos(np.pi * done)) / 2
                away = 2 * h - 1
                gradient -= unit * 2 * beta * np.sign(away) * np.abs(away) ** (beta - 1)
            v = adam.step(gradient * inside * (_HIGH - _LOW) * sigmoid * (1 - sigmoid))
        rounded = np.clip(floor + (v >= 0) + zero_point, low, high).astype(np.float32)
        after = _error((rounded - zero_point) * scale - weight, gram)
        return rounded if after < before else np.asarray(nearest, np.float32)


def _error(change: Float32, gram: Float32) -> float:
    return float(np.einsum("ko,ko->", change, gram @ change))
