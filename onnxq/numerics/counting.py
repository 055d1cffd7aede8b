"""When values are counted by a kernel that numba compiles, where that is installed, instead of by numpy.

Both count the same, bit for bit. The kernel reads values once and takes less than half the time, but loading it takes
half a second, and compiling it, once on a machine, two.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable

import numpy as np

# Takes values, 2^-level, bits of the lowest magnitude without a bin, and counts; see `onnxq.numerics._compiled_count`.
Kernel = Callable[..., tuple[int, int, int, int]]

# Values that numpy counts in about the time that it takes to load the kernel: then that has paid, whatever follows.
PAYS = 50_000_000


class _Choice:
    """The kernel of this process, once it was loaded."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.counted = 0
        self.kernel: Kernel | None = None
        self.lacking = False

    def load(self) -> None:
        with self.lock:
            if self.kernel is not None or self.lacking:
                return
            self.kernel = _load()
            self.lacking = self.kernel is None


_choice = _Choice()


def kernel(more: int = 0) -> Kernel | None:
    """Return the compiled kernel if it is there and pays, None where numpy is to count; `more` values are to come."""
    if _choice.kernel is None and not _choice.lacking:
        _choice.counted += more
        if _choice.counted > PAYS:
            _choice.load()
    return _choice.kernel


def _load() -> Kernel | None:
    if importlib.util.find_spec("numba") is None:
        return None
    try:
        from onnxq.numerics._compiled_count import count
    except Exception:  # no folder to keep compiled code in, a numba that does not fit numpy ...: numpy counts as well
        return None
    found: Kernel = count
    return found


def at_place(place: int) -> float:
    """Return the float32 that has this place among all: the kernel tells extremes by their places."""
    return float(np.int32(place if place >= 0 else place ^ 0x7FFFFFFF).view(np.float32))
