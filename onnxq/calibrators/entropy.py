"""The range that loses the least information.

It minimizes the Kullback-Leibler divergence between a histogram and the same clipped and quantized.

For a window of W bins and L levels (S. Migacz 2017, 8-bit Inference with TensorRT, GTC):

- P is the histogram within the window, the counts outside added to its first and last bin.
- Q: bin i belongs to level floor(i * L / W); each level's mass (without the counts from outside) is spread evenly over
  those of its bins where P is not zero. A window of fewer than L bins has one level a bin.
- With both scaled to sum 1, the divergence is the sum of P log(P / Q) over bins where P is not zero.
- A level that only counts from outside reach is given half a count (Krichevsky and Trofimov 1981), for without any the
  divergence is infinite: a window that ends in a gap before an outlier would never be chosen.
- A window that holds less than half of the counts is none: with all of them added to its ends, P and Q are equal.

One pass over the bins gives prefix sums, from which a window costs L steps instead of W:

    sum P log Q = sum over levels of (P's mass in the level) * log(level's mass / its number of bins with P > 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxq.calibrators import calibrators
from onnxq.calibrators._checks import need_values
from onnxq.numerics.clusters import body_histogram, counted
from onnxq.types.scheme import Range, Scheme
from onnxq.types.statistics import Cluster, TensorStatistics

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

THRESHOLDS = 1024
_ENDS = 256
_FEW = 2.0**-8
_UNSEEN = 0.5
# Turns 0 log(0 / 0) into 0 and changes nothing else.
_TINY = 1e-300
# Windows handled at a time, so that what is computed for them stays in a core's own cache.
_WINDOWS = 32


@calibrators.register("entropy")
@dataclass(frozen=True, kw_only=True, slots=True)
class Entropy:
    """arg min over thresholds t of KL(P || Q), P the distribution clipped to [-t, t], Q the same quantized.

    (S. Migacz 2017, 8-bit Inference with TensorRT, GTC; the formula stands at the top of this file.) Where
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


def divergences(counts: Floats, starts: Ints, ends: Ints, levels: int) -> Floats:
    """Return the divergence of each window.

    Args:
        counts: shape (bins,), not negative.
        starts: first bin of each window, shape (windows,).
        ends: bin after the last one of each window; each window has at least two bins.
        levels: L.

    Returns:
        Nats, shape (windows,); infinite for windows that are none.
    """
    prefixes = _prefix(counts), _prefix((counts > 0).astype(np.float64)), _prefix(_xlogx(counts))
    parts = [slice(start, start + _WINDOWS) for start in range(0, starts.size, _WINDOWS)]
    return np.concatenate([_divergences(counts, prefixes, starts[part], ends[part], levels) for part in parts])


def _divergences(
    counts: Floats, prefixes: tuple[Floats, Floats, Floats], starts: Ints, ends: Ints, levels: int
) -> Floats:
    cumulative, filled, entropies = prefixes
    total = cumulative[-1]
    before, behind = cumulative[starts], total - cumulative[ends]
    first, last = counts[starts], counts[ends - 1]

    # sum P log P: the window's own, except the bins at its ends.
    own = entropies[ends] - entropies[starts]
    own += _xlogx(first + before) - _xlogx(first) + _xlogx(last + behind) - _xlogx(last)

    width = ends - starts
    used = np.minimum(levels, width)
    # Level c begins at the first bin i with i * L / W >= c; levels beyond a window's own are empty. Float quotients of
    # numbers this small never round up to the next whole one.
    level = np.arange(float(used.max() + 1))
    edges = np.minimum(np.ceil(level * width[:, None] / used[:, None]), width[:, None]).astype(np.int64)
    edges += starts[:, None]
    mass, bins = (np.diff(each.take(edges), axis=1) for each in (cumulative, filled))

    rows, final = np.arange(width.size), used - 1
    clipped = mass.copy()
    clipped[:, 0] += before
    clipped[rows, final] += behind
    bins[:, 0] += (first == 0) & (before > 0)
    bins[rows, final] += (last == 0) & (behind > 0)
    # Only the levels at the ends can hold counts from outside and none of their own.
    mass[:, 0] += _UNSEEN * ((mass[:, 0] == 0) & (before > 0))
    mass[rows, final] += _UNSEEN * ((mass[rows, final] == 0) & (behind > 0))
    crossed = (clipped * np.log((mass + _TINY) / (bins + _TINY))).sum(axis=1)
    inside = cumulative[ends] - cumulative[starts]
    divergence = (own - crossed) / total + np.log(np.maximum(inside, _UNSEEN) / total)
    return np.where(2 * inside < total, np.inf, divergence)


def _prefix(values: Floats) -> Floats:
    return np.concatenate([[0.0], np.cumsum(values)])


def _xlogx(values: Floats) -> Floats:
    return values * np.log(np.where(values > 0, values, 1.0))
