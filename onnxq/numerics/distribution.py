"""A histogram read as a density: values spread evenly over each bin, none beyond the exact extremes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxq.numerics.clusters import counted
from onnxq.types.statistics import TensorStatistics

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Distribution:
    """A piecewise even density.

    Attributes:
        edges: never falling, float64, shape (bins + 1,); the first and last are the exact extremes. A bin without width
            holds its values at one point.
        counts: float64, shape (bins,).
    """

    edges: Floats
    counts: Floats

    def moments(self) -> Floats:
        """Return the mass, the sum and the sum of squares of each bin, float64, shape (3, bins)."""
        left, right = self.edges[:-1], self.edges[1:]
        return np.stack(
            [
                self.counts,
                self.counts * (left + right) / 2,
                self.counts * (left * left + left * right + right * right) / 3,
            ]
        )

    def quantiles(self, fractions: npt.ArrayLike) -> Floats:
        """Return the values below which `fractions` (0 to 1) of the mass lie."""
        cumulative = np.concatenate([[0.0], np.cumsum(self.counts)])
        places = np.asarray(fractions, np.float64) * cumulative[-1]
        return np.asarray(np.interp(places, cumulative, self.edges), np.float64)


def distribution(statistics: TensorStatistics) -> Distribution:
    """Return the density of what was seen, mask sentinels left out; there must be a finite value.

    Exact zeros, of which a Relu makes many, stay at one point. Clusters below the largest keep their finer bins.

    Raises:
        CalibrationError: extremes alone were observed.
    """
    reach = max(-statistics.minimum, statistics.maximum)
    parts = [np.zeros((3, 0))]
    for cluster in statistics.clusters:
        if cluster.largest > reach:
            break
        histogram = counted(cluster.histogram)
        index = histogram.first + np.flatnonzero(histogram.counts)
        counts = histogram.counts[index - histogram.first].astype(np.float64)
        if statistics.zeros and cluster is statistics.clusters[0]:
            counts[index == 0] -= statistics.zeros
        edges = np.clip(np.ldexp(np.stack([index, index + 1.0]), histogram.exponent), cluster.minimum, cluster.maximum)
        parts.append(np.stack([*edges, counts])[:, counts > 0])
    if statistics.zeros:
        parts.append(np.array([[0.0], [0.0], [float(statistics.zeros)]]))
    left, right, counts = np.concatenate(parts, axis=1)
    order = np.lexsort((right, left))
    edges = np.stack([left[order], right[order]], axis=1).reshape(-1)
    between = np.stack([counts[order], np.zeros(order.size)], axis=1).reshape(-1)[:-1]
    # A gap without values and without width says nothing.
    kept = np.flatnonzero((between > 0) | (np.diff(edges) > 0))
    return Distribution(edges=np.append(edges[kept], edges[-1]), counts=between[kept])
