"""The range that loses the least information."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxq.calibrators import calibrators
from onnxq.calibrators._checks import need_values
from onnxq.numerics.clusters import body_histogram, counted
from onnxq.numerics.divergence import divergences
from onnxq.types.scheme import Range, Scheme
from onnxq.types.statistics import Cluster, TensorStatistics

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

THRESHOLDS = 1024
_ENDS = 256
_FEW = 2.0**-8


@calibrators.register("entropy")
@dataclass(frozen=True, kw_only=True, slots=True)
class Entropy:
    """arg min over thresholds t of KL(P || Q), P the distribution clipped to [-t, t], Q the same quantized.

    (S. Migacz 2017, 8-bit Inference with TensorRT, GTC; the formula stands in `onnxq.numerics.divergence`.) Where
    others take 128 bins for 128 levels, which leaves one candidate, here are 2048 to 4096 bins a side and 1024
    thresholds. Symmetric schemes search magnitudes. Asymmetric ones search windows [max(-t, min), min(t, max)], then
    move each end by itself. Floating-point codes count as evenly spaced levels.

    Zero is a code exactly, whatever the range, so what lies in the bins beside it costs nothing: the two bins that
    touch zero count no more than their neighbours. Without that the spike a Relu makes there outweighs all the rest.
    """

    def __call__(self, statistics: TensorStatistics, scheme: Scheme) -> Range:
        """Return the range of least divergence."""
        need_values(statistics)
        low, high = statistics.minimum, statistics.maximum
        if scheme.dtype.bits >= 16:
            return Range(low=low, high=high)  # more levels than bins, or no scale to choose
        reach = max(-low, high)
        body = [cluster for cluster in statistics.clusters if cluster.largest <= reach]
        number = len(body)
        # A few values far away from all others, on whose grid the others lie in a handful of bins: clip them.
        while number > 1 and sum(each.count for each in body[number - 1 :]) <= _FEW * statistics.count:
            number -= 1
        counts, zero, width = bins_around_zero(body[:number], body[number:])
        search = best_symmetric if scheme.symmetric else best_asymmetric
        left, right = search(counts, zero, 1 << (scheme.dtype.bits - scheme.symmetric))
        return Range(low=max(low, -left * width), high=min(high, right * width))


def bins_around_zero(clusters: Sequence[Cluster], above: Sequence[Cluster]) -> tuple[Floats, int, float]:
    """Return counts of bins, the index of the bin that begins at zero, and the bins' width.

    The first and last entry hold what lies beyond the bins of `clusters`: the values of `above`.
    """
    histogram = counted(body_histogram(clusters))
    first, last = min(histogram.first, 0), max(histogram.first + histogram.counts.size, 0)
    counts = np.zeros(last - first + 2)
    start = histogram.first - first + 1
    counts[start : start + histogram.counts.size] = histogram.counts
    for cluster in above:
        far = counted(cluster.histogram)
        negative = int(far.counts[: max(0, -far.first)].sum())
        counts[0] += negative
        counts[-1] += cluster.count - negative
    return counts, 1 - first, 2.0**histogram.exponent


def best_symmetric(counts: Floats, zero: int, levels: int) -> tuple[int, int]:
    """Return how many bins to keep left and right of zero: the same number."""
    left, right = counts[1:zero][::-1], counts[zero:-1]
    most = max(left.size, right.size)
    folded = np.zeros(most + 1)  # the last holds what lies beyond
    folded[: left.size] += left
    folded[: right.size] += right
    folded[-1] = counts[0] + counts[-1]
    if most > 1:
        folded[0] = min(folded[0], folded[1])
    ends = _candidates(min(levels, most), most, THRESHOLDS)
    best = int(ends[np.argmin(divergences(folded, np.zeros_like(ends), ends, levels))])
    return best, best


def best_asymmetric(counts: Floats, zero: int, levels: int) -> tuple[int, int]:
    """Return how many bins to keep left and right of zero."""
    lefts, rights = zero - 1, counts.size - 1 - zero
    counts = counts.copy()
    if rights > 1:
        counts[zero] = min(counts[zero], counts[zero + 1])
    if lefts > 1:
        counts[zero - 1] = min(counts[zero - 1], counts[zero - 2])
    least = max(levels // 2, levels - min(lefts, rights))
    reach = _candidates(min(least, max(lefts, rights)), max(lefts, rights), THRESHOLDS)

    def best(left: Ints, right: Ints) -> int:
        return int(np.argmin(divergences(counts, zero - left, zero + right, levels)))

    left, right = np.minimum(reach, lefts), np.minimum(reach, rights)
    chosen = best(left, right)
    kept = int(left[chosen]), int(right[chosen])
    left = _candidates(min(max(levels - kept[1], 0), lefts), lefts, _ENDS)
    kept = int(left[best(left, np.full_like(left, kept[1]))]), kept[1]
    right = _candidates(min(max(levels - kept[0], 0), rights), rights, _ENDS)
    return kept[0], int(right[best(np.full_like(right, kept[0]), right)])


def _candidates(least: int, most: int, number: int) -> Ints:
    """Return up to `number` evenly spaced whole numbers, falling, so that of equals the widest window comes first."""
    return np.rint(np.linspace(most, least, min(number, most - least + 1))).astype(np.int64)
