"""Amount: how much a figure may change, in its own unit (`0.005`) or as a share of what it was (`0.5%`)."""

from __future__ import annotations

import math
import re
from typing import TypeAlias

Amount: TypeAlias = float | str
"""A number, or text of a number and a percent sign."""

_PERCENT = re.compile(r"\s*([0-9.eE+-]+)\s*%\s*")


def parse_amount(value: object) -> object:
    """Return a number as float and a share as `0.5%`, whatever way they were written; None stays.

    Raises:
        ValueError: neither, negative, infinite or NaN.
    """
    if value is None:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"an amount is a number, or a share such as 0.5%, not {value!r}")
    share = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    try:
        number = float(share[1] if share else value)
    except ValueError:
        raise ValueError(f"'{value}' is not an amount; write 0.005, or 0.5% for a share of the float model's") from None
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"an amount is a number of at least 0, not {value}")
    return f"{number:g}%" if share else number


def allowed(amount: Amount, reference: float) -> float:
    """Return what an amount comes to for a figure that is `reference` in the float model."""
    return amount if isinstance(amount, float) else abs(reference) * float(amount.removesuffix("%")) / 100
