"""Arrays of samples to clusters: dense counts that grow in place, or an inspection of every magnitude.

`Body` takes most arrays: those whose values all belong to the cluster that reaches down to zero. Arrays that hold
masks, NaN or little else go through `observe_rows`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxq.numerics import grid
from onnxq.numerics.clusters import BELOW_ALL, GAP, BinadeGroup, exact_sum, group
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
from onnxq.types.statistics import Cluster

Array = npt.NDArray[Any]
# float32 or float64, shape (samples, values of a sample), contiguous
Rows = npt.NDArray[Any]
# Lowest and highest value of each sample, float, shape (samples,).
Extremes = tuple[Array, Array]

# Values of an array that are inspected to find whether it has a body.
_SAMPLED = 2048
# Values of a sample from which on the compiled kernel is worth a call of its own.
_LARGE = 1 << 15


def pieces(rows: Rows) -> Iterator[tuple[slice, Rows]]:
    """Yield (samples, their values or a part of them), at most CHUNK elements at a time."""
    samples, size = rows.shape
    if not rows.size:
        return
    step = max(1, CHUNK // size)
    for first in range(0, samples, step):
        for start in range(0, size, CHUNK):
            yield slice(first, first + step), rows[first : first + step, start : start + CHUNK]


def single_samples(rows: Rows) -> Iterator[tuple[slice, Rows]]:
    """Yield (sample, its values), one sample at a time."""
    return ((slice(index, index + 1), rows[index : index + 1]) for index in range(rows.shape[0]))


class Body:
    """A cluster that reaches down to zero, so that no value below its largest needs its magnitude inspected."""

    def __init__(self, largest: float, ceiling: float = np.inf, *, counted: bool = True) -> None:
        """Make an empty one.

        Args:
            largest: a magnitude that the cluster holds; > 0.
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
        """Return whether values up to this magnitude belong to this cluster and join it to no other; False for NaN."""
        if not 0 <= largest < np.inf:
            return False
        top = binade(largest) if largest else self._top
        return top - self._top <= GAP and self._ceiling - max(top, self._top) > GAP

    def add(self, rows: Rows) -> bool:
        """Add an array of samples; return False, with nothing changed, if not all of it belongs to this cluster."""
        counts = self._counts
        kernel = None if counts is None or not self._suits(rows) else grid.kernel(rows.size)
        # A single piece is checked before numpy counts it.
        if counts is not None and (rows.size > CHUNK or kernel is not None):
            counts = counts.copy()
        before = self._top, self._level, self.zeros, counts
        lows, highs = np.full(rows.shape[0], np.inf), np.full(rows.shape[0], -np.inf)
        # Read once: reading from memory takes longer than counting.
        for index, piece in pieces(rows) if kernel is None else single_samples(rows):
            extremes = self._count_by_numpy(piece) if kernel is None else self._count_by_kernel(kernel, piece)
            if extremes is None:
                self._top, self._level, self.zeros, self._counts = before
                return False
            lows[index], highs[index] = np.minimum(lows[index], extremes[0]), np.maximum(highs[index], extremes[1])
        self._minimum, self._maximum = min(self._minimum, float(lows.min())), max(self._maximum, float(highs.max()))
        self._samples += lows.size
        self._count += rows.size
        self._sum_minima += exact_sum(lows.tolist())
        self._sum_maxima += exact_sum(highs.tolist())
        return True

    def _suits(self, rows: Rows) -> bool:
        """Return whether the compiled kernel takes an array: float32, in samples large enough to be worth a call."""
        return rows.dtype == np.float32 and rows.shape[1] >= _LARGE and self._level in EXACT_FLOAT32

    def _count_by_numpy(self, piece: Rows) -> Extremes | None:
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

    def _count_by_kernel(self, kernel: grid.Kernel, sample: Rows) -> Extremes | None:
        """Count a sample; like `_count_by_numpy`."""
        low, high = np.full(1, np.inf), np.full(1, -np.inf)
        start = 0
        while start < sample.size:
            if self._suits(sample):
                scale, limit = np.float32(2.0**-self._level), np.float32(SIDE * 2.0**self._level)
                done, lowest, highest, zeros = kernel(sample[0, start:], scale, limit.view(np.int32), self._counts)
                if done:
                    low = np.minimum(low, grid.float_at(lowest))
                    high = np.maximum(high, grid.float_at(highest))
                self.zeros += zeros
                start += done
            # The kernel stopped at a value that has no bin yet, or none at all.
            piece = sample[:, start : start + CHUNK]
            if piece.size:
                extremes = self._count_by_numpy(piece)
                if extremes is None:
                    return None
                low, high = np.minimum(low, extremes[0]), np.maximum(high, extremes[1])
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
    def has_body(rows: Rows, largest: float) -> bool:
        """Return whether a sample of the values shows that all, up to `largest`, are one cluster down to zero."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrayClusters:
    """What an array holds: clusters of its finite values, and counts of the others and of exact zeros."""

    clusters: tuple[Cluster, ...]
    nan: int
    pos_inf: int
    neg_inf: int
    zeros: int


def observe_rows(rows: Rows, *, counted: bool = True) -> ArrayClusters:
    """Return what an array of samples holds; without `counted`, a cluster that reaches to zero has no histogram."""
    binades: Counter[int] = Counter()
    nan = pos_inf = neg_inf = 0
    for _, piece in pieces(rows):
        values = piece.reshape(-1)
        finite, others = _binades(values)
        binades.update(finite)
        if others:
            nan += int(np.isnan(values).sum())
            pos_inf += int((values == np.inf).sum())
            neg_inf += int((values == -np.inf).sum())
    clusters = tuple(_cluster(rows, part, counted) for part in group((e, e, e) for e in binades))
    return ArrayClusters(clusters=clusters, nan=nan, pos_inf=pos_inf, neg_inf=neg_inf, zeros=binades[BELOW_ALL])


def _binades(values: Array) -> tuple[dict[int, int], int]:
    """Return how many finite values lie in each binade (zeros in BELOW_ALL), and how many are not finite."""
    single = values.dtype == np.float32
    bits: Array = values.view(np.int32 if single else np.int64)
    mantissa, bias, mask = (23, 127, 0xFF) if single else (52, 1023, 0x7FF)
    exponents = ((bits >> mantissa) & mask).astype(np.int64)
    counts = np.bincount(exponents, minlength=mask + 1)
    binades = {int(e) - bias: int(counts[e]) for e in np.flatnonzero(counts[1:mask]) + 1}
    zeros = int(np.count_nonzero(values == 0)) if counts[0] else 0
    if zeros:
        binades[BELOW_ALL] = zeros
    if counts[0] > zeros:  # subnormal numbers, whose exponent field says nothing
        small = values[(exponents == 0) & (values != 0)].astype(np.float64)
        binades.update(Counter((np.frexp(small)[1] - 1).tolist()))
    return binades, int(counts[mask])


def _cluster(rows: Rows, part: BinadeGroup[int], counted: bool) -> Cluster:
    """Collect the values of one group of binades."""
    zero = part.top == BELOW_ALL
    lower = 0.0 if zero or part.reaches_zero else 2.0**part.bottom
    # Above all of the cluster and below all others: beyond the largest number lies only infinity, which does not count.
    last = part.top + 1 >= np.finfo(rows.dtype).maxexp
    upper = np.inf if last else 0.0 if zero else 2.0 ** (part.top + 1)
    level = level_for(0.0 if zero else 2.0**part.top)
    minima, maxima = np.full(rows.shape[0], np.inf), np.full(rows.shape[0], -np.inf)
    counts = new_counts()
    smallest, minimum, maximum = np.inf, np.inf, -np.inf
    for index, piece in pieces(rows):
        magnitude = np.abs(piece)
        upto = magnitude == 0 if zero else magnitude < upper
        whole = bool(upto.all())
        lows = (piece if whole else _keep(piece, upto, np.inf)).min(axis=1)
        highs = (piece if whole else _keep(piece, upto, -np.inf)).max(axis=1)
        minima[index], maxima[index] = np.minimum(minima[index], lows), np.maximum(maxima[index], highs)
        here = upto & (magnitude >= lower) if lower else upto
        count = int(np.count_nonzero(here))
        if not count:
            continue
        low = float(_keep(piece, here, np.inf).min() if lower else lows.min())
        high = float(_keep(piece, here, -np.inf).max() if lower else highs.max())
        minimum, maximum = min(minimum, low), max(maximum, high)
        if not part.reaches_zero:
            smallest = min(smallest, float(_keep(magnitude, here, np.inf).min()))
        if low == high:  # a mask's one value
            one = new_counts()
            count_bins(one, np.array([low]), level)
            counts += count * one
            continue
        # Zeros in place of the others, subtracted again, cost less than selecting values.
        values = _keep(piece, here, 0.0).reshape(-1)
        count_bins(counts, values, level)
        counts[0, SIDE] -= values.size - count
    reached = maxima >= minima  # samples that have values up to this cluster's largest
    return Cluster(
        smallest=0.0 if part.reaches_zero else smallest,
        largest=max(abs(minimum), abs(maximum)),
        histogram=shrink(counts.sum(axis=0), level) if counted or not part.reaches_zero else None,
        minimum=minimum + 0.0,
        maximum=maximum + 0.0,
        count=int(counts.sum()),
        samples=int(np.count_nonzero(reached)),
        sum_minima=exact_sum(minima[reached].tolist()),
        sum_maxima=exact_sum(maxima[reached].tolist()),
    )


def _keep(values: Array, where: npt.NDArray[np.bool_], fill: float) -> Array:
    """Return np.where(where, values, fill), without a branch for each element."""
    whole = np.int32 if values.dtype == np.float32 else np.int64
    bits: Array = values.view(whole)
    mask: Array = np.negative(where.astype(whole))
    kept: Array = bits & mask
    if fill:
        kept |= ~mask & values.dtype.type(fill).view(whole)
    return kept.view(values.dtype)
