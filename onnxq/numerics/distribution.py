"""A histogram read as a density: values spread evenly over each bin, none beyond the exact extremes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxq.types.statistics import TensorStatistics

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Distribution:
    """A piecewise even density.

    Attributes:
        edges: rising, float64, shape (bins + 1,); first and last are the exact extremes.
        counts: float64, shape (bins,).
    """

    edges: Floats
    counts: Floats

    def quantiles(self, fractions: npt.ArrayLike) -> Floats:
        """Return the values below which `fractions` (0 to 1) of the mass lie."""
        cumulative = np.concatenate([[0.0], np.cumsum(self.counts)])
        places = np.asarray(fractions, np.float64) * cumulative[-1]
        return np.asarray(np.interp(places, cumulative, self.edges), np.float64)


def distribution(statistics: TensorStatistics) -> Distribution:
    """Return the density of what was seen, mask sentinels left out; there must be a finite value."""
    histogram = statistics.histogram
    assert histogram is not None
    index = np.arange(histogram.first, histogram.first + histogram.counts.size + 1, dtype=np.float64)
    edges = np.clip(np.ldexp(index, histogram.exponent), statistics.minimum, statistics.maximum)
    return Distribution(edges=edges, counts=histogram.counts.astype(np.float64))
