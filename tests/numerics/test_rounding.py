from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxq.numerics.rounding import rounding
from onnxq.types.scheme import Rounding

ANY = st.floats(-(2.0**40), 2.0**40, width=32)


def _one(strategy, x):
    return float(rounding(strategy)(np.float32([x]))[0])


@settings(max_examples=60, deadline=None)
@given(ANY)
def test_nearest_even_is_pythons_round(x):
    assert _one(Rounding.NEAREST_EVEN, x) == round(x)


@settings(max_examples=60, deadline=None)
@given(ANY | st.sampled_from([0.49999997, -0.49999997, 0.5, -0.5, 8388607.5, -2.5]))
def test_nearest_away_breaks_ties_away_from_zero(x):
    exact = Fraction(x)
    expected = int(abs(exact) + Fraction(1, 2)) * (1 if x >= 0 else -1)
    assert _one(Rounding.NEAREST_AWAY, x) == expected


@settings(max_examples=60, deadline=None)
@given(ANY)
def test_floor_and_ceil(x):
    assert _one(Rounding.FLOOR, x) == Fraction(x).__floor__()
    assert _one(Rounding.CEIL, x) == Fraction(x).__ceil__()


@pytest.mark.parametrize("x", [0.25, -0.25, 3.75, -7.9, 5.0])
def test_stochastic_rounding_is_right_on_average_and_never_a_step_off(x):
    rounded = rounding(Rounding.STOCHASTIC)(np.full(20_000, x, np.float32))
    assert set(rounded.tolist()) <= {np.floor(x), np.ceil(x)}
    deviation = np.sqrt((x - np.floor(x)) * (np.ceil(x) - x) / 20_000)
    assert rounded.mean(dtype=np.float64) == pytest.approx(x, abs=4 * deviation + 1e-6)


def test_stochastic_rounding_repeats_for_equal_seeds_only():
    x = np.linspace(-3, 3, 500, dtype=np.float32)
    first, again, other = (rounding(Rounding.STOCHASTIC, seed=seed)(x) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("strategy", Rounding)
def test_whole_numbers_stay(strategy):
    x = np.float32([-3, 0, 7, 1e9])
    np.testing.assert_array_equal(rounding(strategy)(x), x)
