import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxq.numerics.floats import round_to_format
from onnxq.numerics.rounding import rounding
from onnxq.types.scheme import QuantType, Rounding

TYPES = {
    QuantType.FLOAT4E2M1: ml_dtypes.float4_e2m1fn,
    QuantType.FLOAT8E4M3FN: ml_dtypes.float8_e4m3fn,
    QuantType.FLOAT8E5M2: ml_dtypes.float8_e5m2,
    QuantType.FLOAT16: np.float16,
    QuantType.BFLOAT16: ml_dtypes.bfloat16,
}


def _grid(dtype):
    """All finite numbers of a type, ascending."""
    bits = np.arange(1 << dtype.bits, dtype=np.uint16 if dtype.bits > 8 else np.uint8)
    if dtype is QuantType.FLOAT4E2M1:
        values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])  # OCP Microscaling Formats 1.0, table 5
        values = np.concatenate([-values, values])
    else:
        with np.errstate(invalid="ignore"):  # NaN among the patterns
            values = bits.view(TYPES[dtype]).astype(np.float64)
    return np.unique(values[np.isfinite(values)])


@pytest.mark.parametrize("dtype", TYPES)
def test_every_number_of_the_type_stays(dtype):
    grid = _grid(dtype)
    assert grid[-1] == dtype.maximum
    assert grid[0] == dtype.minimum
    for strategy in Rounding:
        np.testing.assert_array_equal(round_to_format(grid, dtype, rounding(strategy)), grid)


@pytest.mark.parametrize("dtype", TYPES)
@settings(max_examples=40, deadline=None)
@given(x=st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_nearest_even_is_the_cast_of_ml_dtypes_made_to_saturate(dtype, x):
    expected = np.clip(np.float32(x), dtype.minimum, dtype.maximum).astype(TYPES[dtype]).astype(np.float32)
    assert round_to_format(np.float32([x]), dtype, np.rint)[0] == expected


@pytest.mark.parametrize("dtype", TYPES)
@settings(max_examples=40, deadline=None)
@given(x=st.floats(-500, 500, width=32))
def test_floor_and_ceil_are_the_neighbours(dtype, x):
    grid = _grid(dtype)
    x = float(np.clip(x, grid[0], grid[-1]))
    assert round_to_format(np.array([x]), dtype, np.floor)[0] == grid[grid <= x][-1]
    assert round_to_format(np.array([x]), dtype, np.ceil)[0] == grid[grid >= x][0]


def test_infinities_saturate_and_nan_stays():
    found = round_to_format(np.float32([np.inf, -np.inf, np.nan]), QuantType.FLOAT8E4M3FN, np.rint)
    assert found[:2].tolist() == [448, -448]
    assert np.isnan(found[2])
