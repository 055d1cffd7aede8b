"""Statistics: what calibration saw. Pure data; observing and merging is `onnxq.numerics.histogram`'s work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Histogram:
    """Counts on a dyadic grid: bin i covers [(first + i) * 2^exponent, (first + i + 1) * 2^exponent).

    Attributes:
        exponent: k; bins are 2^k wide.
        first: index of the first bin on the grid.
        counts: int64, one entry a bin, at most `onnxq.numerics.grid.MAX_BINS`; the first and last are not zero.
    """

    exponent: int
    first: int
    counts: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cluster:
    """Values of neighbouring magnitudes, set off from the values of other clusters by a wide empty gap.

    A tensor has one cluster, unless it holds far-away isolated mass (mask sentinels) or exact zeros and little else.
    `onnxq.numerics.clusters` holds the rules.

    Attributes:
        smallest, largest: smallest and largest magnitude; `smallest` is 0.0 for a cluster that reaches down to zero.
        histogram: of this cluster's values, finest grid that holds `largest`; None in a cluster that reaches down to
            zero where extremes alone were requested.
        minimum, maximum: exact extremes.
        count: values.
        samples: samples that have values in this cluster or in those of smaller magnitude.
        sum_minima, sum_maxima: over those samples, the sums of each sample's extremes among the values of this cluster
            and those of smaller magnitude; exact, in units of 2^-1074.
    """

    smallest: float
    largest: float
    histogram: Histogram | None
    minimum: float
    maximum: float
    count: int
    samples: int
    sum_minima: int
    sum_maxima: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentinel:
    """Far-away isolated mass, as masks use it ("minus infinity" as -1e4, -1e9, finfo.min): exact extremes, count."""

    minimum: float
    maximum: float
    count: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ChannelStatistics:
    """What was seen of each index of one axis; finite values, mask sentinels included.

    Attributes:
        axis: the axis, as requested.
        minimum, maximum: float64, shape (channels,); exact; 0.0 for a channel without values.
        sum_squares: float64, shape (channels,), exact to about 1e-13 relative.
        count: int64, shape (channels,).
        products: float64, shape (channels, channels): sums over all places of the products of two channels' values (the
            Gram matrix, whose diagonal is `sum_squares`); None where not requested.
    """

    axis: int
    minimum: npt.NDArray[np.float64]
    maximum: npt.NDArray[np.float64]
    sum_squares: npt.NDArray[np.float64]
    count: npt.NDArray[np.int64]
    products: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TensorStatistics:
    """What was seen of one tensor; of fixed size, mergeable.

    Mean and mean square follow from the histogram (`onnxq.numerics.density`), to a part in some thousands.

    Attributes:
        histogram: counts of the finite values that are not mask sentinels; None while there are none, or where
            extremes alone were requested.
        minimum, maximum: their exact extremes; 0.0 while there are none.
        count: how many they are.
        nan, pos_inf, neg_inf: the values that are not finite, counted apart.
        zeros: exact zeros among `count`.
        sentinels: mask sentinels, by falling magnitude; in none of the above.
        shapes: smallest and largest extent seen for each axis, as ((min, max), ...), the axis of samples counting
            as 1; None while nothing was seen or when ranks differ.
        samples: samples seen, those without finite values included.
        mean_minimum, mean_maximum: mean over the samples of each one's extremes (finite, no sentinels), correctly
            rounded; 0.0 while there are none.
        channels: per-channel statistics where requested; None also when channel counts differ.
        clusters: the state that the fields above are read from, by rising magnitude.
    """

    histogram: Histogram | None
    minimum: float
    maximum: float
    count: int
    nan: int = 0
    pos_inf: int = 0
    neg_inf: int = 0
    shapes: tuple[tuple[int, int], ...] | None = None
    zeros: int = 0
    sentinels: tuple[Sentinel, ...] = ()
    samples: int = 0
    mean_minimum: float = 0.0
    mean_maximum: float = 0.0
    channels: ChannelStatistics | None = None
    clusters: tuple[Cluster, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Statistics:
    """Statistics of a model's tensors.

    Attributes:
        tensors: by tensor name (of the prepared model).
        fingerprint: of the prepared model that was observed.
        samples: how many samples were seen.
        synthetic: whether they were made up from the model's signature.
    """

    tensors: Mapping[str, TensorStatistics] = field(default_factory=dict)
    fingerprint: str = ""
    samples: int = 0
    synthetic: bool = False
