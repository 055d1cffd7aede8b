"""Calibrators: each turns the statistics of one tensor into the range to represent; one file each.

A calibrator is a frozen dataclass whose fields are its options, registered by name:

    @calibrators.register("minmax")
    @dataclass(frozen=True, kw_only=True, slots=True)
    class MinMax:
        def __call__(self, statistics: TensorStatistics, scheme: Scheme) -> Range: ...

It reads the statistics and nothing else, so that equal statistics give equal ranges. Options out of range raise
RecipeError in `__post_init__`. One that reads extremes and no histograms says so with
`histograms: ClassVar[bool] = False`; calibrating for it takes less time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from onnxq.registry import Registry
from onnxq.types.scheme import Range, Scheme
from onnxq.types.statistics import TensorStatistics


class Calibrator(Protocol):
    """Turns statistics into a range."""

    def __call__(self, statistics: TensorStatistics, scheme: Scheme) -> Range:
        """Return the range to represent; finite. The parameters' formula later extends it to zero.

        Raises:
            CalibrationError: no finite value was observed.
        """
        ...


calibrators: Registry[type[Calibrator]] = Registry("calibrator", "onnxq.calibrators")


def reads_histograms(calibrator: Calibrator) -> bool:
    """Return whether a calibrator reads more of the statistics than extremes."""
    return bool(getattr(calibrator, "histograms", True))


def make_calibrator(name: str, options: Mapping[str, Any]) -> Calibrator:
    """Return the calibrator called `name`.

    Args:
        name: as registered ("minmax", "percentile").
        options: values for the fields of its dataclass; the others keep their defaults.

    Raises:
        RecipeError: an unknown name or option, with the nearest right spelling, or a value out of range.
    """
    calibrators.check_options(name, options)
    return calibrators.get(name)(**options)
