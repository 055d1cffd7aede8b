"""Exact sums: whole numbers in units of 2^-1074, the spacing of the smallest float64; order can't matter."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

_UNIT_BITS = 1074


def exact_sum(values: Iterable[float]) -> int:
    """Return the sum of finite floats in units of 2^-1074."""
    total = 0
    for value in values:
        numerator, denominator = value.as_integer_ratio()
        total += numerator << (_UNIT_BITS + 1 - denominator.bit_length())
    return total


def exact_mean(total: int, count: int) -> float:
    """Return a sum in units of 2^-1074 divided by `count`, correctly rounded; 0.0 for no values."""
    return float(Fraction(total, count << _UNIT_BITS)) if count else 0.0
