"""Clusters: values of neighbouring magnitudes, so that a body keeps its resolution beside a far-away mask.

One grid of 4096 bins up to finfo.min has lost every score between -20 and 20. So values are kept on several grids, one
for each cluster of magnitudes, and which cluster a value belongs to depends on the set of all values alone:

- Magnitudes fall into binades, [2^e, 2^(e+1)). Occupied binades belong together when fewer than GAP empty ones lie
  between them. Exact zeros are a cluster of their own, below all others.
- A cluster of WIDE binades or more from end to end is not a spike, hence the body of the distribution or part of it:
  everything of smaller magnitude joins it.

Values that are added only ever join clusters, and grids nest: any split, order and merge tree gives one result.

Clusters far above a body are mask sentinels: the "minus infinity" of attention masks, written as -1e4, -1e9 or
finfo.min.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Generic, TypeVar

import numpy as np

from onnxq.errors import CalibrationError
from onnxq.numerics.grid import MAX_BINS, add_coarser, binade, level_for, shrink
from onnxq.types.statistics import Cluster, Histogram

GAP = 5
WIDE = 4
# The binade of zero, and the lowest binade of a cluster that everything below has joined.
BELOW_ALL = -10_000

# No mask is smaller; 50.0 among N(0, 1) is an outlier that calibrators decide on.
_LEAST_MAGNITUDE = 1000.0
# Beyond this, one value is enough; below, a mask takes a share of the tensor and an outlier does not: the "massive
# activations" of language models (Sun et al. 2024, arXiv 2402.17762), which must not be lost, are a few values in a
# million.
_NO_ACTIVATION = 2.0**26
_LEAST_SHARE = 2.0**-10
_LEAST_COUNT = 8
# The body must be more than dust below a tensor of large values.
_LEAST_BODY_SHARE = 2.0**-6
# A mask added to scores is a spike as wide as the scores; a distribution fills its cluster.
_MOST_OCCUPIED = 0.25

# Exact sums count units of 2^-1074, the spacing of the smallest float64.
_UNIT_BITS = 1074

T = TypeVar("T")


@dataclass
class BinadeGroup(Generic[T]):
    """Binades `bottom` to `top`, both included, and what lies in them."""

    bottom: int
    top: int
    members: list[T] = field(default_factory=list)

    @property
    def reaches_zero(self) -> bool:
        """Return whether everything of smaller magnitude belongs to it."""
        return self.top - self.bottom + 1 >= WIDE


def group(parts: Iterable[tuple[int, int, T]]) -> list[BinadeGroup[T]]:
    """Join (lowest binade, highest binade, member) into groups, by rising magnitude."""
    groups: list[BinadeGroup[T]] = []
    for bottom, top, member in sorted(parts, key=lambda part: part[:2]):
        if groups and bottom - groups[-1].top <= GAP:
            groups[-1].members.append(member)
            groups[-1].top = max(groups[-1].top, top)
        else:
            groups.append(BinadeGroup(bottom, top, [member]))
        if groups[-1].reaches_zero:
            members = [each for lower in groups for each in lower.members]
            groups = [BinadeGroup(BELOW_ALL, groups[-1].top, members)]
    return groups


def merge_clusters(a: Sequence[Cluster], b: Sequence[Cluster]) -> tuple[Cluster, ...]:
    """Return the clusters of both sets of values together, by rising magnitude."""
    if not a or not b:
        return tuple(a or b)
    groups = group((*_binades(cluster), cluster) for cluster in (*a, *b))
    return tuple(_join(each, a, b) for each in groups)


def body_histogram(clusters: Sequence[Cluster]) -> Histogram | None:
    """Return the histogram of all values of some clusters (at least one), on the grid of the largest.

    None where extremes alone were observed.
    """
    if len(clusters) == 1:
        return clusters[0].histogram
    return _sum([cluster.histogram for cluster in clusters], level_for(max(cluster.largest for cluster in clusters)))


def counted(histogram: Histogram | None) -> Histogram:
    """Return a histogram, which must be there.

    Raises:
        CalibrationError: extremes alone were observed.
    """
    if histogram is None:
        raise CalibrationError("only extremes were observed; calibrate again for a calibrator that reads histograms")
    return histogram


def _sum(histograms: Sequence[Histogram | None], level: int) -> Histogram | None:
    counts = np.zeros(MAX_BINS, np.int64)
    for histogram in histograms:
        if histogram is None:
            return None
        add_coarser(counts, histogram, level)
    return shrink(counts, level)


def _binades(cluster: Cluster) -> tuple[int, int]:
    top = binade(cluster.largest) if cluster.largest else BELOW_ALL
    return binade(cluster.smallest) if cluster.smallest else BELOW_ALL, top


def _join(joined: BinadeGroup[Cluster], a: Sequence[Cluster], b: Sequence[Cluster]) -> Cluster:
    members = joined.members
    largest = max(member.largest for member in members)
    # Samples count in a cluster with all of their values up to it: on each side the highest cluster that lies in this
    # group or below holds just those.
    upto = [max(side, key=lambda c: c.largest) for side in (_upto(a, largest), _upto(b, largest)) if side]
    return Cluster(
        smallest=0.0 if joined.reaches_zero else min(member.smallest for member in members),
        largest=largest,
        histogram=_sum([member.histogram for member in members], level_for(largest)),
        minimum=min(member.minimum for member in members),
        maximum=max(member.maximum for member in members),
        count=sum(member.count for member in members),
        samples=sum(each.samples for each in upto),
        sum_minima=sum(each.sum_minima for each in upto),
        sum_maxima=sum(each.sum_maxima for each in upto),
    )


def _upto(side: Sequence[Cluster], largest: float) -> list[Cluster]:
    return [cluster for cluster in side if cluster.largest <= largest]


def split_sentinels(clusters: Sequence[Cluster]) -> tuple[Sequence[Cluster], Sequence[Cluster]]:
    """Return (body, sentinels), both by rising magnitude.

    A cluster is a sentinel when it is far from all that lies below (the gap between clusters), a spike (few of its bins
    occupied), large, and either a share of the tensor or beyond any activation; and when what lies below is a body:
    not only zeros, and not a trace.
    """
    total = sum(cluster.count for cluster in clusters)
    body = len(clusters)
    while body > 1 and _is_sentinel(clusters[body - 1], clusters[: body - 1], total):
        body -= 1
    return clusters[:body], clusters[body:]


def _is_sentinel(cluster: Cluster, below: Sequence[Cluster], total: int) -> bool:
    if cluster.smallest < _LEAST_MAGNITUDE:
        return False
    if cluster.smallest < _NO_ACTIVATION and cluster.count < max(_LEAST_COUNT, _LEAST_SHARE * total):
        return False
    nonzero = sum(lower.count for lower in below if lower.largest > 0)
    if not nonzero or sum(lower.count for lower in below) < _LEAST_BODY_SHARE * total:
        return False
    histogram = counted(cluster.histogram)  # only a cluster that reaches down to zero may lack it
    occupied = np.count_nonzero(histogram.counts) * 2.0**histogram.exponent
    return bool(occupied <= _MOST_OCCUPIED * cluster.largest)


def exact_sum(values: Iterable[float]) -> int:
    """Return the sum of finite floats in units of 2^-1074."""
    total = 0
    for value in values:
        numerator, denominator = value.as_integer_ratio()
        total += numerator << (_UNIT_BITS + 1 - denominator.bit_length())
    return total


def exact_mean(total: int, count: int) -> float:
    """Return a sum in units of 2^-1074 divided by `count`, correctly rounded; 0.0 for no values."""
    return float(Fraction(total, count << _UNIT_BITS)) if count else 0.0
