"""The range of a typical sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxq.calibrators import calibrators
from onnxq.calibrators._checks import need_values
from onnxq.types.scheme import Range, Scheme
from onnxq.types.statistics import TensorStatistics


@calibrators.register("moving-average")
@dataclass(frozen=True, kw_only=True, slots=True)
class MovingAverage:
    """[mean over samples of min x, mean over samples of max x].

    The moving average of training-time observers (Jacob et al. 2018, arXiv 1712.05877, section 3.1) weighs late samples
    more; over a calibration set, whose order means nothing, all samples weigh the same. A sample is one index of the
    batch axis, so the batch size does not matter either.
    """

    histograms: ClassVar[bool] = False

    def __call__(self, statistics: TensorStatistics, scheme: Scheme) -> Range:
        """Return the mean extremes."""
        need_values(statistics)
        return Range(low=statistics.mean_minimum, high=statistics.mean_maximum)
