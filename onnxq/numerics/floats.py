"""Small floating-point formats: rounding to their grid, with any strategy, and whether float32 data survive in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from onnxq.numerics.rounding import Round
from onnxq.types.float_type import FloatType
from onnxq.types.scheme import QuantType


@dataclass(frozen=True, kw_only=True, slots=True)
class FloatFormat:
    """A binary format.

    Attributes:
        mantissa: stored bits of it.
        smallest_exponent: exponent of the smallest normal number.
    """

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


def to_float(array: npt.NDArray[Any], float_type: FloatType) -> npt.NDArray[Any]:
    """Return an array in a 16-bit type, rounded to the nearest, half to even; too large values become infinite."""
    with np.errstate(over="ignore", under="ignore"):
        return array.astype(ml_dtypes.bfloat16 if float_type is FloatType.BFLOAT16 else np.dtype(float_type.value))


def misfit(array: npt.NDArray[np.float32], float_type: FloatType) -> str | None:
    """Return why an array cannot be stored in a 16-bit type, in words; None if only rounding is lost.

    Rounding moves a value by at most eps / 2 of it, and so the array by that much of its norm. More than eps means that
    values fell into the type's subnormal numbers, or to 0 (the 1e-12 that keeps a division from 0).
    """
    rounded = to_float(array, float_type)
    info: Any = ml_dtypes.finfo(rounded.dtype)  # type: ignore[no-untyped-call]
    over = np.isinf(rounded) & np.isfinite(array)
    if over.any():
        worst = float(np.abs(array[over]).max())
        return f"holds {worst:.3g}, and {float_type} ends at {float(info.max):.6g}"
    finite = np.isfinite(array)
    exact = array[finite].astype(np.float64)
    lost = np.linalg.norm(exact - rounded[finite].astype(np.float64))
    if lost > float(info.eps) * np.linalg.norm(exact):
        return f"holds values as small as {np.abs(exact[exact != 0]).min():.3g}, which {float_type} loses"
    return None
