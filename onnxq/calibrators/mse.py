"""The range of least squared error."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from onnxq.calibrators import calibrators
from onnxq.calibrators._checks import need_values
from onnxq.numerics.affine import params_from_range
from onnxq.numerics.density import ExpectedError, Moments, distribution, expected_error
from onnxq.types.scheme import PerTensor, QuantType, Range, Scheme
from onnxq.types.statistics import TensorStatistics

Floats = npt.NDArray[np.float64]

# Factors that thresholds are multiplied by, round by round: 12 octaves down in eighths, then around the best one.
_ROUNDS = (
    2.0 ** -(np.arange(97) / 8),
    2.0 ** (np.arange(8, -9, -1) / 8),
    2.0 ** (np.arange(8, -9, -1) / 64),
)


@calibrators.register("mse")
@dataclass(frozen=True, kw_only=True, slots=True)
class MeanSquaredError:
    """arg min over [l, h] of E[(x - Q(x))^2], Q the quantizer of the scheme.

    The error has two parts that pull in opposite ways: a narrower range clips more and rounds less. Both come from the
    histogram, read as a density, for the scheme's bit width, symmetry, code range and rounding, with the parameters'
    own formula (`onnxq.numerics.density`; the criterion is that of Sung et al. 2015, arXiv 1511.06488, and of
    Banner et al. 2019, arXiv 1810.05723).

    The search starts from thresholds |x| <= t over 12 octaves, then moves each end by itself, ever finer.
    """

    def __call__(self, statistics: TensorStatistics, scheme: Scheme) -> Range:
        """Return the range of least expected error."""
        need_values(statistics)
        low, high = statistics.minimum, statistics.maximum
        if scheme.dtype in (QuantType.FLOAT16, QuantType.BFLOAT16) or low == high:
            return Range(low=low, high=high)  # no scale to choose, or nothing to trade
        moments = Moments(distribution(statistics))
        reach = max(-low, high)
        best = _best(moments, scheme, *_window(low, high, reach * _ROUNDS[0]))
        for factors in _ROUNDS[1:]:
            reach = max(-best[0], best[1])
            if scheme.symmetric or low >= 0 or high <= 0:
                best = _best(moments, scheme, *_window(low, high, reach * factors))
                continue
            for _ in range(2):
                lows = np.maximum(best[0] * factors, low)
                best = _best(moments, scheme, lows, np.full_like(lows, best[1]))
                highs = np.minimum(best[1] * factors, high)
                best = _best(moments, scheme, np.full_like(highs, best[0]), highs)
        return Range(low=best[0], high=best[1])

    def errors(self, statistics: TensorStatistics, scheme: Scheme, range_: Range) -> ExpectedError:
        """Return what clipping and rounding cost with this range: mean squared errors, arrays of shape (1,)."""
        need_values(statistics)
        moments = Moments(distribution(statistics))
        return _errors(moments, scheme, np.array([range_.low]), np.array([range_.high]))


def _window(low: float, high: float, reach: Floats) -> tuple[Floats, Floats]:
    return np.maximum(low, -reach), np.minimum(high, reach)


def _errors(moments: Moments, scheme: Scheme, lows: Floats, highs: Floats) -> ExpectedError:
    return expected_error(moments, params_from_range(lows, highs, replace(scheme, granularity=PerTensor())))


def _best(moments: Moments, scheme: Scheme, lows: Floats, highs: Floats) -> tuple[float, float]:
    """Return the candidate of least error, the first of equals."""
    best = int(np.argmin(_errors(moments, scheme, lows, highs).total))
    return float(lows[best]), float(highs[best])
