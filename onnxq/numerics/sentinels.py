"""Mask sentinels: the "minus infinity" of attention masks, written as -1e4, -1e9 or finfo.min."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxq.numerics.clusters import counted
from onnxq.types.statistics import Cluster

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
