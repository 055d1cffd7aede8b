"""The dyadic grid of histograms, and counting values into its bins: bin i of level k covers [i * 2^k, (i + 1) * 2^k).

The grids nest (bin i of level k lies in bin i >> 1 of level k + 1), and scaling by a power of two is exact, so that a
histogram at a given level depends only on the multiset of values, never on the way to it. The level follows from the
largest magnitude alone: 2048 to 4096 bins reach from zero to it.

Values are counted by numpy, or by a kernel that numba compiles where that is installed. Both count the same, bit for
bit. The kernel reads values once and takes less than half the time, but loading it takes half a second, and compiling
it, once on a machine, two.
"""

from __future__ import annotations

import importlib.util
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxq.types.statistics import Histogram

Counts = npt.NDArray[np.int64]
# Takes values, 2^-level, bits of the lowest magnitude without a bin, and counts; see `onnxq.numerics._compiled_count`.
Kernel = Callable[..., tuple[int, int, int, int]]

_SIDE_BITS = 12
SIDE = 1 << _SIDE_BITS
MAX_BINS = 2 * SIDE
_LANES = 2
# Elements handled at a time: few enough to stay close to a core, many enough to hide what a call costs, and in each
# lane fewer than 2^16, for all of them may be equal.
CHUNK = _LANES * ((1 << 16) - 64)
# No finer bins than these, so that 2^-k is a finite float64; float32 never gets here.
_FINEST = -1000
# Between these levels float32 arithmetic is exact: 2^-k is representable, and nothing underflows when multiplied by it.
EXACT_FLOAT32 = range(-126, 1)
# Values that numpy counts in about the time that it takes to load the kernel: then that has paid, whatever follows.
PAYS = 50_000_000


def binade(magnitude: float) -> int:
    """Return floor(log2(magnitude)), exactly; magnitude > 0."""
    return math.frexp(magnitude)[1] - 1


def level_for(largest: float) -> int:
    """Return the level whose 4096 bins a side hold magnitudes up to `largest`, with more than 2048 of them in use."""
    return max(binade(largest) + 1 - _SIDE_BITS, _FINEST) if largest else _FINEST


class _Scratch:
    """Buffers of one chunk: fresh memory for every chunk would cost more than the arithmetic.

    Counting is the product of a sparse matrix with the number one: the matrix has one column, and in it a one for each
    element, in the row of its bin. That takes half the time of `np.add.at`, and other threads can run beside it.
    """

    def __init__(self) -> None:
        from scipy.sparse import csc_array

        self.float32 = np.empty(CHUNK, np.float32)
        self.float64 = np.empty(CHUNK, np.float64)
        self.index = np.empty(CHUNK, np.int32)
        self.extent = np.array([0, CHUNK], np.int32)
        parts = (np.ones(CHUNK, np.uint16), self.index, self.extent)  # a chunk's counts stay below 2^16 in each lane
        self.matrix = csc_array(parts, shape=(_LANES * MAX_BINS, 1), copy=False)
        self.one = np.ones(1, np.uint16)

    def count(self, number: int) -> npt.NDArray[np.uint16]:
        """Return how often each row number stands in the first entries of `index`; uint16, (lanes * MAX_BINS,)."""
        self.extent[1] = number
        counts: npt.NDArray[np.uint16] = self.matrix @ self.one
        return counts


_local = threading.local()


def _scratch() -> _Scratch:
    """Return the thread's own buffers."""
    if not hasattr(_local, "scratch"):
        _local.scratch = _Scratch()
    scratch: _Scratch = _local.scratch
    return scratch


# Index of bin 0 in the lane that each element of a chunk is counted in.
_origins = (np.arange(CHUNK) % _LANES * MAX_BINS + SIDE).astype(np.int32)


def new_counts() -> Counts:
    """Return empty counts for `count_bins`, int64, shape (lanes, MAX_BINS); what counts is the sum of the lanes.

    Neighbouring elements are counted in different lanes: equal ones, as a Relu's zeros, need not wait for each other.
    """
    return np.zeros((_LANES, MAX_BINS), np.int64)


def count_bins(counts: Counts, values: npt.NDArray[Any], level: int, *, negative: bool = True) -> None:
    """Count how many values fall into each bin -SIDE .. SIDE - 1 of `level`.

    Args:
        counts: of `new_counts`, changed in place; entry i of a lane counts bin i - SIDE.
        values: float32 or float64, one axis, at most CHUNK finite values, magnitudes below SIDE * 2^level.
        level: the grid's level.
        negative: whether some values are below zero; False spares rounding them down.
    """
    single = values.dtype == np.float32 and level in EXACT_FLOAT32
    kind = np.float32 if single else np.float64
    scratch = _scratch()
    scaled: npt.NDArray[Any] = (scratch.float32 if single else scratch.float64)[: values.size]
    index = scratch.index[: values.size]
    np.multiply(values, kind(math.ldexp(1.0, -level)), out=scaled)
    if negative:
        np.floor(scaled, out=scaled)
        if not single and level > 0:
            scaled[(values < 0) & (scaled == 0)] = -1  # a product that underflowed to zero lies just below it
    np.copyto(index, scaled, casting="unsafe")
    np.add(index, _origins[: values.size], out=index)
    flat = counts.reshape(-1)
    flat += scratch.count(values.size)


def shrink(counts: Counts, level: int) -> Histogram:
    """Return dense counts of bins -SIDE .. SIDE - 1, not all zero, as a Histogram without empty bins at its ends."""
    used = np.flatnonzero(counts)
    first, last = int(used[0]), int(used[-1])
    return Histogram(exponent=level, first=first - SIDE, counts=counts[first : last + 1].copy())


def add_coarser(total: Counts, histogram: Histogram, level: int) -> None:
    """Add a histogram of `level` or finer to dense counts of `level`, in place."""
    # Bins lie within -2^12 .. 2^12, so that a shift by 13 already tells negative from the others.
    shift = min(level - histogram.exponent, _SIDE_BITS + 1)
    low, high = histogram.first >> shift, (histogram.first + histogram.counts.size - 1) >> shift
    starts = (np.arange(low, high + 1) << shift) - histogram.first  # of the runs that share a coarser bin
    starts[0] = 0
    total[low + SIDE : high + SIDE + 1] += np.add.reduceat(histogram.counts, starts)


class _KernelChoice:
    """The kernel of this process, once it is loaded."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.values = 0  # counted by numpy so far
        self.kernel: Kernel | None = None
        self.lacking = False

    def load(self) -> None:
        with self.lock:
            if self.kernel is not None or self.lacking:
                return
            self.kernel = _load()
            self.lacking = self.kernel is None


_choice = _KernelChoice()


def kernel(more: int = 0) -> Kernel | None:
    """Return the compiled kernel if it is there and pays, None where numpy is to count; `more` values are to come."""
    if _choice.kernel is None and not _choice.lacking:
        _choice.values += more
        if _choice.values > PAYS:
            _choice.load()
    return _choice.kernel


def _load() -> Kernel | None:
    if importlib.util.find_spec("numba") is None:
        return None
    try:
        from onnxq.numerics._compiled_count import count
    except Exception:  # no folder to keep compiled code in, a numba that does not fit numpy ...: numpy counts as well
        return None
    compiled: Kernel = count
    return compiled


def float_at(key: int) -> float:
    """Return the float32 of a key, its place in the order of all floats; the kernel returns extremes as keys."""
    return float(np.int32(key if key >= 0 else key ^ 0x7FFFFFFF).view(np.float32))
