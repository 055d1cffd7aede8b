"""Clusters: values of neighbouring magnitudes; the state that keeps a body's resolution when a far-away mask joins it.

One grid of 4096 bins up to finfo.min has lost every score between -20 and 20. So values are kept on several grids, one
for each cluster of magnitudes, and which cluster a value belongs to depends on the set of all values alone:

- Magnitudes fall into binades, [2^e, 2^(e+1)). Occupied binades belong together when fewer than GAP empty ones lie
  between them. Exact zeros are a cluster of their own, below all others.
- A cluster of WIDE binades or more from end to end is no spike, hence the body of the distribution or part of it:
  everything of smaller magnitude joins it.

Values that are added only ever join clusters, and grids nest: any split, order and merge tree gives one result.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from onnxq.errors import CalibrationError
from onnxq.numerics.grid import MAX_BINS, add_coarser, binade, level_for, shrink
from onnxq.types.statistics import Cluster, Histogram

GAP = 5
WIDE = 4
# Stands for the binade of zero, and for the lowest binade of a cluster that everything below has joined.
BELOW_ALL = -10_000

T = TypeVar("T")


@dataclass
class Group(Generic[T]):
    """Binades `bottom` to `top`, both included, and what lies in them."""

    bottom: int
    top: int
    members: list[T] = field(default_factory=list)

    @property
    def reaches_zero(self) -> bool:
        """Whether everything of smaller magnitude belongs to it."""
        return self.top - self.bottom + 1 >= WIDE


def group(parts: Iterable[tuple[int, int, T]]) -> list[Group[T]]:
    """Join (lowest binade, highest binade, member) into groups, by rising magnitude."""
    groups: list[Group[T]] = []
    for bottom, top, member in sorted(parts, key=lambda part: part[:2]):
        if groups and bottom - groups[-1].top <= GAP:
            groups[-1].members.append(member)
            groups[-1].top = max(groups[-1].top, top)
        else:
            groups.append(Group(bottom, top, [member]))
        if groups[-1].reaches_zero:
            members = [each for lower in groups for each in lower.members]
            groups = [Group(BELOW_ALL, groups[-1].top, members)]
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
    """Return a histogram that is there.

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


def _join(joined: Group[Cluster], a: Sequence[Cluster], b: Sequence[Cluster]) -> Cluster:
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
