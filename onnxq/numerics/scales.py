"""Which numbers a scale may be: rounding to the type that a model stores it in, or to powers of two."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxq.numerics.floats import round_to_format
from onnxq.types.scheme import QuantType, ScaleType

_SMALLEST = float(np.finfo(np.float32).smallest_normal)
_LARGEST = float(np.finfo(np.float32).max)
_SMALLEST_FLOAT16 = 2.0**-24


def allowed_scale(scale: npt.NDArray[Any], kind: ScaleType, *, up: bool = False) -> npt.NDArray[np.float32]:
    """Return the nearest scales that `kind` allows, or the next ones up; finite, and no subnormal float32.

    Rounded up, a range that was represented stays so. Powers of two are nearest by ratio: scales are compared by it.

    Args:
        scale: >= 0, float32 or float64.
        kind: which numbers are allowed.
        up: round up (float32: to nearest nevertheless, as the operators' own arithmetic does).
    """
    if kind is ScaleType.POWER_OF_TWO:
        fraction, exponent = np.frexp(np.maximum(scale, _SMALLEST))  # fraction in [1/2, 1): 1/2 is the power itself
        exponent = np.where(fraction <= (0.5 if up else np.sqrt(0.5)), exponent - 1, exponent)
        return np.asarray(np.ldexp(np.float32(1), np.minimum(exponent, 127)), np.float32)
    if kind is ScaleType.FLOAT32:
        return np.asarray(np.clip(scale, _SMALLEST, _LARGEST), np.float32)
    dtype = QuantType(kind.value)
    smallest = _SMALLEST_FLOAT16 if kind is ScaleType.FLOAT16 else _SMALLEST
    return np.maximum(round_to_format(scale, dtype, np.ceil if up else np.rint), np.float32(smallest))
