"""What must be bit-identical in statistics that saw the same."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

SUMS = {"sum_squares"}  # of channels: equal to rounding


def identity(value: Any) -> Any:
    """Everything that must be bit-identical, as something to compare."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, tuple):
        return tuple(identity(each) for each in value)
    if hasattr(value, "__dataclass_fields__"):
        return tuple((f.name, identity(getattr(value, f.name))) for f in fields(value) if f.name not in SUMS)
    return value
