import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxq.numerics.scales import allowed_scale
from onnxq.types.scheme import ScaleType

STORED = {
    ScaleType.FLOAT32: np.float32,
    ScaleType.FLOAT16: np.float16,
    ScaleType.BFLOAT16: ml_dtypes.bfloat16,
}


@pytest.mark.parametrize("kind", STORED)
@settings(max_examples=60, deadline=None)
@given(scale=st.floats(0, 1e38))
def test_the_stored_type_holds_the_scale_exactly(kind, scale):
    for up in (False, True):
        found = allowed_scale(np.array([scale]), kind, up=up)
        assert found.dtype == np.float32
        assert found.astype(STORED[kind]).astype(np.float32) == found
        assert 0 < found[0] < np.inf


@settings(max_examples=60, deadline=None)
@given(scale=st.floats(2.0**-14, 60000))
def test_float16_rounds_up_by_less_than_one_step(scale):
    found = float(allowed_scale(np.array([scale]), ScaleType.FLOAT16, up=True)[0])
    assert scale <= found <= scale * (1 + 2.0**-10)


@settings(max_examples=60, deadline=None)
@given(scale=st.floats(2.0**-100, 2.0**100))
def test_powers_of_two(scale):
    up = float(allowed_scale(np.array([scale]), ScaleType.POWER_OF_TWO, up=True)[0])
    near = float(allowed_scale(np.array([scale]), ScaleType.POWER_OF_TWO)[0])
    assert np.log2(up) % 1 == np.log2(near) % 1 == 0
    assert scale <= up < 2 * scale
    assert 2**-0.5 * scale <= near * (1 + 1e-15)
    assert near <= 2**0.5 * scale * (1 + 1e-15)


def test_extremes_stay_in_the_range_of_float32():
    for kind in ScaleType:
        for up in (False, True):
            found = allowed_scale(np.array([0.0, 1e-45, 3e38, 1e300]), kind, up=up)
            assert np.isfinite(found).all()
            assert (found > 0).all()
