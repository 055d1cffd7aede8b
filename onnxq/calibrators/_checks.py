"""Checks that calibrators share."""

from __future__ import annotations

from onnxq.errors import CalibrationError, RecipeError
from onnxq.types.statistics import TensorStatistics


def need_values(statistics: TensorStatistics) -> None:
    """Raise CalibrationError where no finite value was observed."""
    if not statistics.count:
        nan, infinite = statistics.nan, statistics.pos_inf + statistics.neg_inf
        seen = f"; it held {nan} NaN and {infinite} infinities" if nan or infinite else ""
        raise CalibrationError(
            f"no finite value was seen in calibration{seen}; give samples that reach this tensor, or keep it in float"
        )


def number_within(calibrator: str, option: str, value: object, low: float, high: float) -> None:
    """Raise RecipeError unless `value` is a number above `low` and at most `high`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low < value <= high:
        raise RecipeError(
            f"calibrator '{calibrator}': {option} must be a number above {low:g} and at most {high:g}, not {value!r}"
        )
