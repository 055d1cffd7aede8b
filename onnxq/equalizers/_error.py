"""The error that quantization is expected to leave in the outputs of linear layers, with their features scaled.

Rounding errors are taken as uniform and uncorrelated: a step d costs d^2 / 12 for each value.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxq.equalizers import Floats, LinearInputs
from onnxq.numerics.affine import dequantize, params_from_range, quantize, weight_range
from onnxq.numerics.blocks import from_groups, spread, to_groups

# Scales that differ by more than this from feature to feature would leave float32's comfortable range.
_WIDEST = 2.0**12
# Scales are of so few bits that the order in which squares were added never shows in them.
_BITS = 12


def normalized(numerator: Floats, denominator: Floats, *, live: npt.NDArray[np.bool_]) -> Floats:
    """Return the quotients, of geometric mean 1 and rounded to 12 bits; 1 where not `live`."""
    scale = np.ones(numerator.size)
    if live.any():
        logs = np.log2(numerator[live] / denominator[live])
        scale[live] = np.exp2(logs - logs.mean())
    fraction, exponent = np.frexp(np.clip(scale, 1 / _WIDEST, _WIDEST))
    return np.asarray(np.ldexp(np.round(np.ldexp(fraction, _BITS)), exponent - _BITS))


def signal(inputs: LinearInputs) -> float:
    """Return the sum of the mean squares of all outputs, features being taken as uncorrelated; above 0."""
    energy = sum(
        float(layer.per_feature(np.square(layer.weight, dtype=np.float64)) @ inputs.squares) for layer in inputs.layers
    )
    return max(energy, float(np.finfo(np.float64).tiny))


def activation_error(inputs: LinearInputs, scale: Floats) -> float:
    """Return the sum over all outputs of the squared error of rounding the features; 0 where they stay float."""
    if inputs.activations is None:
        return 0.0
    low, high = float((inputs.minimum / scale).min()), float((inputs.maximum / scale).max())
    step = float(params_from_range(low, high, inputs.activations).scale)
    weights = sum(float(np.square(layer.weight * layer.along(scale)).sum(dtype=np.float64)) for layer in inputs.layers)
    return step * step / 12 * weights


def weight_error(inputs: LinearInputs, scale: Floats) -> float:
    """Return the sum over all outputs of the squared error that rounding the weights leaves."""
    total = 0.0
    for layer in inputs.layers:
        scaled = (layer.weight * layer.along(scale)).astype(np.float32)
        params = params_from_range(*weight_range(scaled, layer.scheme), layer.scheme)
        squares = np.square(spread(params.scale, scaled.shape, layer.scheme.granularity).astype(np.float64))
        grouped = to_groups(scaled, layer.scheme.granularity).shape
        steps = from_groups(np.broadcast_to(squares, grouped), scaled.shape, layer.scheme.granularity)
        total += float(layer.per_feature(steps) @ (inputs.squares / scale**2)) / 12
    return total


def rounded_error(inputs: LinearInputs, scale: Floats) -> float:
    """Return the same as `weight_error`, from weights really rounded to nearest: few codes have no uniform error."""
    total = 0.0
    for layer in inputs.layers:
        scaled = (layer.weight * layer.along(scale)).astype(np.float32)
        params = params_from_range(*weight_range(scaled, layer.scheme), layer.scheme)
        error = np.square(dequantize(quantize(scaled, params), params) - scaled)
        total += float(layer.per_feature(error) @ (inputs.squares / scale**2))
    return total
