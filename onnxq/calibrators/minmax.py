"""The whole observed range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxq.calibrators import calibrators
from onnxq.calibrators._checks import need_values
from onnxq.types.scheme import Range, Scheme
from onnxq.types.statistics import TensorStatistics


@calibrators.register("minmax")
@dataclass(frozen=True, kw_only=True, slots=True)
class MinMax:
    """[min x, max x] of all samples: nothing is clipped (Jacob et al. 2018, arXiv 1712.05877, section 3.1).

    Mask sentinels and infinities are left out.
    """

    histograms: ClassVar[bool] = False

    def __call__(self, statistics: TensorStatistics, scheme: Scheme) -> Range:
        """Return the exact extremes."""
        need_values(statistics)
        return Range(low=statistics.minimum, high=statistics.maximum)
