"""A histogram read as a density, and the squared error that quantization is expected to make of it.

Values are spread evenly over each bin, none beyond the exact extremes. For codes at places v_1 < ... < v_n, a value x
in the cell of v_j costs (x - v_j)^2. With the density's cumulative moments S_m(x) = integral of t^m p(t) dt up to x, a
cell [a, b) costs

    S_2(b) - S_2(a) - 2 v_j (S_1(b) - S_1(a)) + v_j^2 (S_0(b) - S_0(a)),

which is exact for the density; the usual step^2 / 12 is its limit for a flat one. What values beyond v_1 and v_n cost
is the clipping error, all other is rounding (the two parts of Banner et al. 2019, arXiv 1810.05723, section 4, who take
them from a Laplace or Gauss density).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxq.numerics.affine import storage_dtype
from onnxq.numerics.clusters import counted
from onnxq.types.scheme import QuantParams, Rounding, Scheme
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
    """Return the density of the observed values, mask sentinels left out; there must be a finite value.

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


# With more codes a step is finer than a bin, over which the density is flat.
_MOST_CODES = 1024
# Mean squared error of rounding a flat density, in steps squared.
_FLAT = {
    Rounding.NEAREST_EVEN: 1 / 12,
    Rounding.NEAREST_AWAY: 1 / 12,
    Rounding.FLOOR: 1 / 3,
    Rounding.CEIL: 1 / 3,
    Rounding.STOCHASTIC: 1 / 6,
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ExpectedError:
    """Mean squared error of clipping and of rounding; float64, of the scales' shape."""

    clipping: Floats
    rounding: Floats

    @property
    def total(self) -> Floats:
        """Both together."""
        return self.clipping + self.rounding


class Moments:
    """Cumulative moments of a density."""

    def __init__(self, density: Distribution) -> None:
        self._edges, counts = density.edges, density.counts
        left, right = self._edges[:-1], self._edges[1:]
        self._density = np.divide(counts, right - left, out=np.zeros_like(counts), where=right > left)
        self._upto = np.concatenate([np.zeros((3, 1)), np.cumsum(density.moments(), axis=1)], axis=1)
        self.total = self._upto[:, -1]

    def upto(self, x: Floats) -> tuple[Floats, Floats, Floats]:
        """Return S_0, S_1 and S_2 at `x`, of x's shape; values at x count."""
        # Before the first edge nothing counts, behind the last one all, points without width included.
        after = np.searchsorted(self._edges, x, side="right")
        index = np.clip(after - 1, 0, self._edges.size - 2)
        left = self._edges[index]
        mass = self._density[index] * (x - left)
        outside = (after == 0) | (after == self._edges.size)
        mass[outside] = 0.0
        index[after == self._edges.size] += 1
        zeroth, first, second = (each[index] for each in self._upto)
        return zeroth + mass, first + mass * (left + x) / 2, second + mass * (left * left + left * x + x * x) / 3


def expected_error(moments: Moments, params: QuantParams) -> ExpectedError:
    """Return the error for each of many parameters.

    Args:
        moments: of the density.
        params: of shape (candidates,); its type an integer or a float of at most 8 bits.
    """
    scheme, scale = params.scheme, params.scale.astype(np.float64)
    codes = code_points(scheme)
    places: Floats = (codes - params.zero_point.astype(np.float64)[:, None]) * scale[:, None]
    low, high = places[:, 0], places[:, -1]
    count, first, second = moments.total
    s0, s1, s2 = moments.upto(low)
    below = s2 - 2 * low * s1 + low**2 * s0
    s0, s1, s2 = moments.upto(high)
    above = (second - s2) - 2 * high * (first - s1) + high**2 * (count - s0)
    if codes.size > 2:
        rounding = _rounding(moments, places, scheme.rounding)
    else:
        inside = s0 - moments.upto(np.nextafter(low, -np.inf))[0]
        zeros = np.subtract(*(moments.upto(np.array([x]))[0] for x in (0.0, -np.finfo(np.float64).tiny)))
        rounding = (inside - zeros) * scale**2 * _FLAT[scheme.rounding]
    return ExpectedError(clipping=np.maximum(below + above, 0.0) / count, rounding=np.maximum(rounding, 0.0) / count)


def code_points(scheme: Scheme) -> Floats:
    """Return all codes of a scheme, rising; only the first and last where there are very many."""
    if scheme.dtype.is_float:
        kind = storage_dtype(scheme.dtype)
        every = np.arange(1 << scheme.dtype.bits, dtype=np.uint8).view(kind).astype(np.float64)
        return np.unique(every[np.isfinite(every)])
    low, high = scheme.code_range
    return np.array([low, high], np.float64) if high - low >= _MOST_CODES else np.arange(low, high + 1.0)


def _rounding(moments: Moments, places: Floats, rounding: Rounding) -> Floats:
    """Return the summed error of rounding between the first and the last place, shape (candidates,)."""
    left, right = places[:, :-1], places[:, 1:]
    if rounding is Rounding.STOCHASTIC:
        # x in [a, b] goes to b with probability (x - a) / (b - a): (x - a)(b - x) is expected.
        s0, s1, s2 = (np.diff(each, axis=1) for each in moments.upto(places))
        return np.asarray(((left + right) * s1 - s2 - left * right * s0).sum(axis=1))
    between = (left + right) / 2
    if rounding is Rounding.FLOOR:
        between = np.nextafter(right, -np.inf)
    elif rounding is Rounding.CEIL:
        between = left
    edges = np.concatenate([places[:, :1], between, places[:, -1:]], axis=1)
    s0, s1, s2 = (np.diff(each, axis=1) for each in moments.upto(edges))
    return np.asarray((s2 - 2 * places * s1 + places * places * s0).sum(axis=1))
