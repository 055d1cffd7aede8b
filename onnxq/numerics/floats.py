"""Small floating-point formats: rounding to their grid, with any strategy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxq.numerics.rounding import Round
from onnxq.types.scheme import QuantType


@dataclass(frozen=True, kw_only=True, slots=True)
class FloatFormat:
    """A binary format: `mantissa` stored bits, and the exponent of its smallest normal number."""

    mantissa: int
    smallest_exponent: int


# OCP 8-bit Floating Point Specification 1.0 and OCP Microscaling Formats 1.0 (float4); IEEE 754 binary16.
FORMATS = {
    QuantType.FLOAT4E2M1: FloatFormat(mantissa=1, smallest_exponent=0),
    QuantType.FLOAT8E4M3FN: FloatFormat(mantissa=3, smallest_exponent=-6),
    QuantType.FLOAT8E5M2: FloatFormat(mantissa=2, smallest_exponent=-14),
    QuantType.FLOAT16: FloatFormat(mantissa=10, smallest_exponent=-14),
    QuantType.BFLOAT16: FloatFormat(mantissa=7, smallest_exponent=-126),
}


def round_to_format(values: npt.NDArray[Any], dtype: QuantType, round_: Round) -> npt.NDArray[np.float32]:
    """Return the nearest numbers of a floating-point type, as float32, saturating at its largest finite one.

    NaN stays NaN. Between two powers of two the numbers of a format are evenly spaced, so that rounding is division
    by that spacing, rounding to a whole number (`round_`), and multiplication: both exact, the spacing being a power
    of two. The parity of the whole number is that of the mantissa: rint is IEEE's ties-to-even.
    """
    shape = FORMATS[dtype]
    wide = np.clip(values.astype(np.float64), dtype.minimum, dtype.maximum)
    _, exponent = np.frexp(wide)  # |x| in [2^(e-1), 2^e)
    spacing = np.ldexp(1.0, np.maximum(exponent - 1, shape.smallest_exponent) - shape.mantissa)
    rounded = round_(wide / spacing) * spacing
    return np.asarray(np.clip(rounded, dtype.minimum, dtype.maximum), np.float32)
