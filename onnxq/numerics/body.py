"""The body of a tensor's values while it is being observed: dense counts that grow in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxq.numerics import counting
from onnxq.numerics.clusters import GAP, group
from onnxq.numerics.exact import exact_sum
from onnxq.numerics.grid import (
    CHUNK,
    EXACT_FLOAT32,
    SIDE,
    add_coarser,
    binade,
    count_bins,
    level_for,
    new_counts,
    shrink,
)
from onnxq.numerics.pieces import Rows, each, pieces
from onnxq.types.statistics import Cluster

_SAMPLED = 2048
# Values of a sample from which on the compiled kernel is worth a call of its own.
_LARGE = 1 << 15

# Of each sample, float, shape (samples,).
Extremes = tuple[npt.NDArray[Any], npt.NDArray[Any]]


class Body:
    """A cluster that reaches down to zero, so that no value below its largest needs a look at its magnitude."""

    def __init__(self, largest: float, ceiling: float = np.inf, *, counted: bool = True) -> None:
        """Make an empty one.

        Args:
            largest: a magnitude that the cluster is known to hold; > 0.
            ceiling: lowest binade of the next cluster above.
            counted: whether values are counted in bins; False: extremes and how many values alone.
        """
        self._top = binade(largest)
        self._ceiling = ceiling
        self._level = level_for(largest)
        self._counts = new_counts() if counted else None
        self._count = 0
        self._minimum, self._maximum = np.inf, -np.inf
        self._samples = self._sum_minima = self._sum_maxima = 0
        self.zeros = 0

    def _accepts(self, largest: float) -> bool:
        """Whether values up to this magnitude belong to this cluster and join it to no other; False for NaN."""
        if not 0 <= largest < np.inf:
            return False
        top = binade(largest) if largest else self._top
        return top - self._top <= GAP and self._ceiling - max(top, self._top) > GAP

    def add(self, rows: Rows) -> bool:
        """Add an array of samples; return False, with nothing changed, if not all of it belongs to this cluster."""
        counts = self._counts
        kernel = None if counts is None or not self._suits(rows) else counting.kernel(rows.size)
        # A single piece is looked at before numpy counts it.
        if counts is not None and (rows.size > CHUNK or kernel is not None):
            counts = counts.copy()
        before = self._top, self._level, self.zeros, counts
        lows, highs = np.full(rows.shape[0], np.inf), np.full(rows.shape[0], -np.inf)
        # Read once: from memory it comes slower than it is counted.
        for index, piece in pieces(rows) if kernel is None else each(rows):
            found = self._by_numpy(piece) if kernel is None else self._by_kernel(kernel, piece)
            if found is None:
                self._top, self._level, self.zeros, self._counts = before
                return False
            lows[index], highs[index] = np.minimum(lows[index], found[0]), np.maximum(highs[index], found[1])
        self._minimum, self._maximum = min(self._minimum, float(lows.min())), max(self._maximum, float(highs.max()))
        self._samples += lows.size
        self._count += rows.size
        self._sum_minima += exact_sum(lows.tolist())
        self._sum_maxima += exact_sum(highs.tolist())
        return True

    def _suits(self, rows: Rows) -> bool:
        """Whether the compiled kernel takes an array: float32, in samples so large that its counts are worth adding."""
        return rows.dtype == np.float32 and rows.shape[1] >= _LARGE and self._level in EXACT_FLOAT32

    def _by_numpy(self, piece: Rows) -> Extremes | None:
        """Count a piece; return the extremes of each sample, None if not all of it belongs to this cluster."""
        least, most = piece.min(axis=1), piece.max(axis=1)
        low, high = float(least.min()), float(most.max())
        if not self._accepts(max(-low, high)):
            return None
        self._grow(max(-low, high))
        values = piece.reshape(-1)
        if self._counts is not None:
            count_bins(self._counts, values, self._level, negative=low < 0)
        if low <= 0 <= high:
            self.zeros += values.size - int(np.count_nonzero(values != 0))
        return least, most

    def _by_kernel(self, kernel: counting.Kernel, sample: Rows) -> Extremes | None:
        """Count a sample; as `_by_numpy`."""
        low, high = np.full(1, np.inf), np.full(1, -np.inf)
        start = 0
        while start < sample.size:
            if self._suits(sample):
                scale, limit = np.float32(2.0**-self._level), np.float32(SIDE * 2.0**self._level)
                done, lowest, highest, zeros = kernel(sample[0, start:], scale, limit.view(np.int32), self._counts)
                if done:
                    low = np.minimum(low, counting.at_place(lowest))
                    high = np.maximum(high, counting.at_place(highest))
                self.zeros += zeros
                start += done
            # Here is a value that has no bin yet, or none at all.
            piece = sample[:, start : start + CHUNK]
            if piece.size:
                found = self._by_numpy(piece)
                if found is None:
                    return None
                low, high = np.minimum(low, found[0]), np.maximum(high, found[1])
                start += piece.size
        return low, high

    def clusters(self) -> tuple[Cluster, ...]:
        """Return what was added, as one cluster or none."""
        if not self._samples:
            return ()
        added = Cluster(
            smallest=0.0,
            largest=max(abs(self._minimum), abs(self._maximum)),
            histogram=None if self._counts is None else shrink(self._counts.sum(axis=0), self._level),
            minimum=self._minimum + 0.0,
            maximum=self._maximum + 0.0,
            count=self._count,
            samples=self._samples,
            sum_minima=self._sum_minima,
            sum_maxima=self._sum_maxima,
        )
        return (added,)

    @staticmethod
    def proven(rows: Rows, largest: float) -> bool:
        """Whether a few values show that all of an array's, up to `largest`, are one cluster that reaches to zero."""
        if not 0 < largest < np.inf:
            return False
        few = np.abs(rows.reshape(-1)[:: rows.size // _SAMPLED + 1]).astype(np.float64)
        tops = set((np.frexp(few[few > 0])[1] - 1).tolist()) | {binade(largest)}
        return group((top, top, top) for top in tops)[-1].reaches_zero

    def _grow(self, largest: float) -> None:
        if not largest or binade(largest) <= self._top:
            return
        self._top = binade(largest)
        level = level_for(largest)
        if self._counts is not None and self._counts.any():
            counts = new_counts()
            add_coarser(counts[0], shrink(self._counts.sum(axis=0), self._level), level)
            self._counts = counts
        self._level = level
