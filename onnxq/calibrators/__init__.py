"""Calibrators: each turns the statistics of one tensor into the range to represent; one file each.

A calibrator is a frozen dataclass whose fields are its options, registered by name:

    @calibrators.register("minmax")
    @dataclass(frozen=True, kw_only=True, slots=True)
    class MinMax:
        def __call__(self, statistics: TensorStatistics, scheme: Scheme) -> Range: ...
"""

from __future__ import annotations

from typing import Protocol

from onnxq.registry import Registry
from onnxq.types.scheme import Range, Scheme
from onnxq.types.statistics import TensorStatistics


class Calibrator(Protocol):
    """Turns statistics into a range."""

    def __call__(self, statistics: TensorStatistics, scheme: Scheme) -> Range:
        """Return the range to represent; finite. Zero is put into it later, by the parameters' formula."""
        ...


calibrators: Registry[type[Calibrator]] = Registry("calibrator", "onnxq.calibrators")
