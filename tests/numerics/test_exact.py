from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from onnxq.numerics.clusters import exact_mean, exact_sum

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(finite))
def test_sum_is_exact(values: list[float]) -> None:
    assert exact_sum(values) == sum(map(Fraction, values)) * 2**1074


@given(st.lists(finite, min_size=1))
def test_mean_is_rounded_once(values: list[float]) -> None:
    assert exact_mean(exact_sum(values), len(values)) == float(sum(map(Fraction, values)) / len(values))


def test_mean_of_nothing() -> None:
    assert exact_mean(0, 0) == 0.0
