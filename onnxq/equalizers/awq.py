"""AWQ: weights that multiply large features get finer codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxq.equalizers import Floats, LinearInputs, Place, Scales, equalizers
from onnxq.equalizers._error import normalized, rounded_error, signal
from onnxq.errors import RecipeError


@equalizers.register("awq")
@dataclass(frozen=True, kw_only=True, slots=True)
class ActivationAware:
    """Divide feature j by s_j = sqrt(E[x_j^2])^alpha and multiply its weights by it, before they are quantized.

    Lin et al. 2023, arXiv 2306.00978, section 3.2, who take the mean magnitude for the root of the mean square. Of
    `steps` values of alpha from 0 to 1, the one is chosen that leaves the least error of the layers' outputs,

        sum_j  E[x_j^2] / s_j^2  sum_n (Q(s_j w_jn) - s_j w_jn)^2,

    with weights really rounded to nearest in their blocks, features being taken as uncorrelated. The clipping search of
    the paper's section 4 is the weight method `mse:importance=true`, which goes with it.

    Attributes:
        steps: values of alpha that are tried.
        gain: by which part the error must fall.
        insert: allow a Mul where the scale cannot be folded into what computes the features.
    """

    steps: int = 21
    gain: float = 0.02
    insert: bool = False

    place: ClassVar[Place] = Place.INPUTS
    rank: ClassVar[int] = 40
    weight_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the number of steps."""
        if self.steps < 2:
            raise RecipeError(f"equalizer 'awq': steps must be at least 2, not {self.steps}")

    def __call__(self, inputs: LinearInputs) -> Scales | str:
        """Return the scales of the best alpha."""
        total = signal(inputs)
        tried = [(alpha, magnitudes(inputs, float(alpha))) for alpha in np.linspace(0, 1, self.steps)]
        errors = [rounded_error(inputs, scale) / total for _, scale in tried]
        best = int(np.argmin(errors))
        alpha, scale = tried[best]
        if not errors[best] < errors[0] * (1 - self.gain):
            return f"no alpha lowers the error by {self.gain:.0%} (best: {alpha:.2f}, {errors[best] / errors[0]:.2f}x)"
        return Scales(scale=scale, text=f"alpha {alpha:.2f}", before=errors[0], after=errors[best])


def magnitudes(inputs: LinearInputs, alpha: float) -> Floats:
    """Return sqrt(E[x_j^2])^alpha, of geometric mean 1; 1 for features that are always 0."""
    size = inputs.squares.size
    return normalized(inputs.squares ** (alpha / 2), np.ones(size), live=inputs.squares > 0)
