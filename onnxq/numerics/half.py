"""Whether float32 data survive in 16 bits."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from onnxq.types.float_type import FloatType


def to_float(array: npt.NDArray[Any], float_type: FloatType) -> npt.NDArray[Any]:
    """Return the array in that type, rounded to the nearest, half to even; what is too large becomes infinite."""
    with np.errstate(over="ignore", under="ignore"):
        return array.astype(ml_dtypes.bfloat16 if float_type is FloatType.BFLOAT16 else np.dtype(float_type.value))


def misfit(array: npt.NDArray[np.float32], float_type: FloatType) -> str | None:
    """Return why an array cannot be stored in that type, in words; None if only rounding is lost.

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
