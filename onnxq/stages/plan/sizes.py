"""Extents of values, for estimates of time and work."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onnxq.types.statistics import Statistics

if TYPE_CHECKING:
    import onnx_ir as ir


UNKNOWN = 32  # of an axis whose extent is neither declared nor observed; only relative times depend on it


class Sizes:
    """Extents of values: declared ones, else the largest that was observed, else a guess."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics

    def shape(self, value: ir.Value | None) -> tuple[int, ...]:
        """Return an extent for every axis; (32,) if even the rank is unknown."""
        if value is None:
            return ()
        seen = self._statistics.tensors.get(value.name or "")
        observed = seen.shapes if seen is not None else None
        if value.shape is None:
            return (UNKNOWN,) if observed is None else tuple(high for _, high in observed)
        declared = [dim if isinstance(dim, int) else None for dim in value.shape]
        if observed is None or len(observed) != len(declared):
            return tuple(UNKNOWN if dim is None else dim for dim in declared)
        return tuple(high if dim is None else dim for dim, (_, high) in zip(declared, observed, strict=True))

    def count(self, value: ir.Value) -> int:
        """Return the number of elements."""
        return math.prod(self.shape(value))
