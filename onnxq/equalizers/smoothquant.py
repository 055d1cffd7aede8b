"""SmoothQuant: a part of the activations' spread moves into the weights, where it costs less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from onnxq.equalizers import Floats, LinearInputs, Place, Scales, equalizers
from onnxq.equalizers._error import activation_error, normalized, signal, weight_error
from onnxq.errors import RecipeError


@equalizers.register("smoothquant")
@dataclass(frozen=True, kw_only=True, slots=True)
class SmoothQuant:
    """Divide feature j by s_j = max|x_j|^alpha / max|w_j|^(1 - alpha) (Xiao et al. 2022, arXiv 2211.10438, eq. 4).

    `alpha=auto` tries 21 values from 0 to 1, and chooses the one with the least expected error of the layers' outputs,

        sum_l  d^2 / 12 |W_l|^2  +  sum_j E[x_j^2] / s_j^2  sum_n d_jn^2 / 12,

    d being the step between codes of the activations, d_jn that of the weights, both as they would be with s: rounding
    errors are taken as uniform and uncorrelated. Where that does not lower the error by `gain`, nothing is done.

    Attributes:
        alpha: how much moves into the weights: 0 evens out the weights, 1 the activations.
        gain: by which part the expected error must fall.
        insert: allow a Mul where the scale cannot be folded into what computes the features.
    """

    alpha: float | Literal["auto"] = "auto"
    gain: float = 0.05
    insert: bool = True

    place: ClassVar[Place] = Place.INPUTS
    rank: ClassVar[int] = 40
    weight_only: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check alpha."""
        if self.alpha != "auto" and not 0 <= self.alpha <= 1:
            raise RecipeError(f"equalizer 'smoothquant': alpha lies in 0 .. 1, or is `auto`, not {self.alpha}")

    def __call__(self, inputs: LinearInputs) -> Scales | str:
        """Return the scales of the best alpha."""
        total = signal(inputs)
        before = _error(inputs, np.ones(inputs.squares.size)) / total
        alphas = np.linspace(0, 1, 21) if self.alpha == "auto" else [float(self.alpha)]
        tried = [(alpha, migrated(inputs, float(alpha))) for alpha in alphas]
        after, alpha, scale = min((_error(inputs, scale) / total, alpha, scale) for alpha, scale in tried)
        if self.alpha == "auto" and not after < before * (1 - self.gain):
            return f"no alpha lowers the expected error by {self.gain:.0%} (best: {alpha:.2f}, {after / before:.2f}x)"
        return Scales(scale=scale, text=f"alpha {alpha:.2f}", before=before, after=after)


def migrated(inputs: LinearInputs, alpha: float) -> Floats:
    """Return max|x_j|^alpha / max|w_j|^(1 - alpha), of geometric mean 1; 1 for features or weights that are all 0."""
    largest = np.maximum(-inputs.minimum, inputs.maximum)
    weights = np.max(
        [
            np.abs(layer.weight).max(axis=tuple(a for a in range(layer.weight.ndim) if a != layer.axis))
            for layer in inputs.layers
        ],
        axis=0,
    ).astype(np.float64)
    return normalized(largest**alpha, weights ** (1 - alpha), live=(largest > 0) & (weights > 0))


def _error(inputs: LinearInputs, scale: Floats) -> float:
    return activation_error(inputs, scale) + weight_error(inputs, scale)
