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
        counts: int64, one entry a bin, at most `onnxq.numerics.histogram.MAX_BINS`.
    """

    exponent: int
    first: int
    counts: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TensorStatistics:
    """What was seen of one tensor; of fixed size, mergeable.

    Attributes:
        histogram: counts of the finite values; None while no finite value was seen.
        minimum, maximum: exact extremes of the finite values that are no mask sentinels; 0.0 while there are none.
        count: finite values seen. nan, pos_inf, neg_inf: the others, counted apart.
        shapes: smallest and largest extent seen for each axis, as ((min, max), ...); None while nothing was seen or
            when ranks differ.
    """

    histogram: Histogram | None
    minimum: float
    maximum: float
    count: int
    nan: int = 0
    pos_inf: int = 0
    neg_inf: int = 0
    shapes: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Statistics:
    """Statistics of a model's tensors.

    Attributes:
        tensors: by tensor name (of the prepared model).
        fingerprint: of the prepared model that was observed.
        samples: how many samples were seen. synthetic: whether they were made up from the model's signature.
    """

    tensors: Mapping[str, TensorStatistics] = field(default_factory=dict)
    fingerprint: str = ""
    samples: int = 0
    synthetic: bool = False
