"""The range that holds all but a fixed share of the values."""

from __future__ import annotations

from dataclasses import dataclass

from onnxq.calibrators import calibrators
from onnxq.calibrators._checks import need_values, number_within
from onnxq.numerics.density import distribution
from onnxq.types.scheme import Range, Scheme
from onnxq.types.statistics import TensorStatistics


@calibrators.register("percentile")
@dataclass(frozen=True, kw_only=True, slots=True)
class Percentile:
    """[q(100 - p), q(p)] with q the percentile of all observed values (Wu et al. 2020, arXiv 2004.09602, section 3.2).

    Two-sided: each tail loses 100 - p percent. Percentiles are linear within a bin of the histogram.

    Attributes:
        percentile: p, above 50 and at most 100.
    """

    percentile: float = 99.99

    def __post_init__(self) -> None:
        number_within("percentile", "percentile", self.percentile, 50.0, 100.0)

    def __call__(self, statistics: TensorStatistics, scheme: Scheme) -> Range:
        """Return the two percentiles."""
        need_values(statistics)
        tail = 1.0 - self.percentile / 100.0
        low, high = distribution(statistics).quantiles([tail, 1.0 - tail])
        return Range(low=float(low), high=float(high))
