"""Scale and zero point of each activation tensor, from its statistics."""

from __future__ import annotations

from dataclasses import replace

from onnxq.calibrators import Calibrator
from onnxq.numerics.affine import params_from_range
from onnxq.types.scheme import QuantParams, Range, Scheme
from onnxq.types.statistics import TensorStatistics


def activation_params(
    statistics: TensorStatistics,
    scheme: Scheme,
    calibrator: Calibrator,
    bounds: Range | None,
    fixed: Range | None = None,
) -> QuantParams:
    """Return the parameters of one activation tensor.

    Args:
        statistics: what calibration saw of it. scheme: per tensor. calibrator: chooses the range.
        bounds: of the clamp whose work its quantization does, None if absent.
        fixed: range to take whatever the calibrator would choose, None for its choice.
    """
    if fixed is not None:
        return params_from_range(fixed.low, fixed.high, scheme)
    chosen = calibrator(statistics, scheme)
    if bounds is None:
        return params_from_range(chosen.low, chosen.high, scheme)
    low, high = (min(max(value, bounds.low), bounds.high) for value in (chosen.low, chosen.high))
    return _within(params_from_range(low, high, scheme), bounds)


def _within(params: QuantParams, bounds: Range) -> QuantParams:
    """Shrink a scale until no code lies outside `bounds`.

    onnxruntime drops a clamp in front of QuantizeLinear only if the codes cannot reach beyond its bounds; one rounding
    step too far, and the whole group runs in float.
    """
    import numpy as np

    lowest, highest = params.scheme.code_range
    zero_point = int(params.zero_point)
    scale = params.scale
    for steps, bound in ((zero_point - lowest, -bounds.low), (highest - zero_point, bounds.high)):
        if steps > 0 and float(scale) * steps > bound:
            scale = np.asarray(bound / steps, dtype=np.float32)
            while float(scale) * steps > bound:
                scale = np.asarray(np.nextafter(scale, np.float32(0)), dtype=np.float32)
    return replace(params, scale=scale)
