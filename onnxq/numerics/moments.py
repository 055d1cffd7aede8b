"""Sums of values and of squares in float64, at the speed of the processor's vector units."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

# Few enough elements that the dot product does not start threads, which inference needs.
_PIECE = 8192


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.wide = np.empty(_PIECE)


_ones = np.ones(_PIECE)
_scratch = _Scratch()


def sums(values: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the sum of finite values and the sum of their squares; infinite where float64 overflows.

    The dot product adds in many lanes, so that the error stays near 1e-14 of the sum of magnitudes.
    """
    total = squares = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, values.size, _PIECE):
            piece = values[start : start + _PIECE]
            wide = _scratch.wide[: piece.size]
            np.copyto(wide, piece)
            total += float(wide.dot(_ones[: piece.size]))
            squares += float(wide.dot(wide))
    return total, squares
