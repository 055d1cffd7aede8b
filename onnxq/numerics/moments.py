"""Sums of values and of squares in float64, at the speed of the processor's vector units."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxq.numerics.grid import CHUNK

# Few enough elements that the dot product does not start threads, which inference needs.
_DOT = 8192


class _Scratch(threading.local):
    """A buffer of one chunk, one a thread."""

    def __init__(self) -> None:
        self.wide = np.empty(CHUNK)


_ones = np.ones(_DOT)
_scratch = _Scratch()


def sums(values: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the sum of at most CHUNK finite values and the sum of their squares; infinite where float64 overflows.

    The dot product adds in many lanes, so that the error stays near 1e-14 of the sum of magnitudes.
    """
    wide = _scratch.wide[: values.size]
    np.copyto(wide, values)
    whole = values.size - values.size % _DOT
    parts, rest = wide[:whole].reshape(-1, _DOT), wide[whole:]
    with np.errstate(over="ignore", invalid="ignore"):
        total = float(np.vecdot(parts, _ones).sum()) + float(rest.dot(_ones[: rest.size]))
        return total, float(np.vecdot(parts, parts).sum()) + float(rest.dot(rest))
