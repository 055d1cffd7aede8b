import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnxq.numerics.scale_search import best_scales
from onnxq.types.scheme import QuantType, ScaleType, Scheme


def _error(x, scale, zero_point, scheme, weight=1.0):
    low, high = scheme.code_range
    codes = np.clip(np.rint(x / scale[:, None]) + zero_point[:, None], low, high)
    return np.sum(weight * ((codes - zero_point[:, None]) * scale[:, None].astype(np.float64) - x) ** 2, axis=1)


def _least_error(x, low, high, weight=None):
    """The least error of codes low..high over ALL scales, for each row.

    As the scale falls, element x moves from level k to k + 1 at |x| / (k + 1/2). Between two such events the codes are
    fixed, and the best scale for them leaves |x|^2 - <x, q>^2 / <q, q>.
    """
    least = []
    weights = np.ones_like(x) if weight is None else weight
    for row, w in zip(x.astype(np.float64), weights, strict=True):
        events = sorted(
            (
                (abs(v) / (k + 0.5), h * abs(v), h * (2 * k + 1))
                for v, h in zip(row, w, strict=True)
                for k in range(int(high if v > 0 else -low))
            ),
            reverse=True,
        )
        product, square = (np.cumsum([event[part] for event in events]) for part in (1, 2))
        least.append(np.sum(w * row**2) - np.max(product**2 / square, initial=0))
    return np.array(least)


def _best_of_all(x, scheme, negative=False, weight=None):
    low, high = scheme.code_range
    windows = [(low - scheme.middle, high - scheme.middle)]
    if not scheme.symmetric:
        windows = [(low - zero, high - zero) for zero in range(low, high + 1)]
    elif negative:
        windows.append((-windows[0][1], -windows[0][0]))
    return np.min([_least_error(x, *window, weight) for window in windows], axis=0)


@pytest.mark.parametrize("width", [16, 32, 128])
@pytest.mark.parametrize("dtype", [QuantType.INT2, QuantType.INT3, QuantType.INT4])
@pytest.mark.parametrize("kind", ["narrow", "full", "negative", "asymmetric"])
def test_the_error_is_near_the_least_of_all_scales(width, dtype, kind):
    rng = np.random.default_rng(width)
    x = np.concatenate([rng.normal(size=(6, width)), rng.standard_t(3, size=(6, width)), rng.random((4, width))])
    x = x.astype(np.float32)
    scheme = Scheme(dtype=dtype, symmetric=kind != "asymmetric", narrow=kind == "narrow")
    scale, zero_point = best_scales(x, scheme, negative_scales=kind == "negative")
    found = _error(x, scale, zero_point, scheme).sum()
    assert found <= 1.02 * _best_of_all(x, scheme, kind == "negative").sum()


def test_importance_is_part_of_the_error():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 32)).astype(np.float32)
    weight = np.exp(rng.normal(size=x.shape) * 2).astype(np.float32)
    scheme = Scheme(dtype=QuantType.INT4, symmetric=True)
    found = _error(x, *best_scales(x, scheme, importance=weight), scheme, weight).sum()
    assert found <= 1.02 * _best_of_all(x, scheme, weight=weight).sum()
    assert found < 0.9 * _error(x, *best_scales(x, scheme), scheme, weight).sum()


def test_an_outlier_is_clipped_only_where_that_pays():
    x = np.random.default_rng(0).normal(size=(1, 4096)).astype(np.float32)
    scheme = Scheme(dtype=QuantType.INT4, symmetric=True)
    x[0, 0] = 8.0
    assert best_scales(x, scheme)[0][0] * 7 < 4
    x[0, 0] = 800.0
    assert best_scales(x, scheme)[0][0] * 7 == pytest.approx(800, rel=0.01)


def test_the_extra_code_serves_the_longer_side():
    x = np.float32([[-8, 1, 2, 7], [8, 1, 2, -7]])
    scheme = Scheme(dtype=QuantType.INT4, symmetric=True, narrow=False)
    scale, zero_point = best_scales(x, scheme, negative_scales=True)
    assert scale.tolist() == [1, -1]
    assert zero_point.tolist() == [0, 0]
    assert (best_scales(x, scheme)[0] > 0).all()


def test_a_row_of_zeros_is_left_to_the_caller():
    scale, _ = best_scales(np.zeros((2, 8), np.float32), Scheme(dtype=QuantType.UINT4, symmetric=False))
    assert scale.tolist() == [0, 0]


@pytest.mark.parametrize("kind", ScaleType)
@pytest.mark.parametrize("symmetric", [True, False])
def test_scales_are_of_their_type_and_not_below_the_least(kind, symmetric):
    x = np.random.default_rng(0).normal(size=(50, 32)).astype(np.float32)
    least = np.linspace(0.01, 1, 50)
    scheme = Scheme(dtype=QuantType.INT4, symmetric=symmetric, scale_type=kind)
    scale, _ = best_scales(x, scheme, min_scale=least)
    assert (scale >= np.float32(least)).all()
    if kind is ScaleType.FLOAT16:
        np.testing.assert_array_equal(scale.astype(np.float16), scale)
    if kind is ScaleType.POWER_OF_TWO:
        assert (np.log2(scale) % 1 == 0).all()


@settings(max_examples=30, deadline=None)
@given(
    x=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 12)),
        elements=st.floats(-(2.0**120), 2.0**120, width=32),
    ),
    power=st.integers(-100, 0),
)
def test_scaling_by_a_power_of_two_scales_the_answer(x, power):
    x = x.astype(np.float32)
    scheme = Scheme(dtype=QuantType.UINT4, symmetric=False)
    scale, zero_point = best_scales(x, scheme)
    smaller = np.ldexp(x, power)
    normal = np.abs(x[x != 0]).min(initial=1) * 2.0**power > 1e-35
    if normal and (scale * 2.0**power > 1e-35).all():
        again, zero_again = best_scales(smaller, scheme)
        np.testing.assert_array_equal(again, np.ldexp(scale, power))
        np.testing.assert_array_equal(zero_again, zero_point)
    assert np.isfinite(scale).all()


def test_long_rows_are_summed_in_pieces(monkeypatch):
    x = np.random.default_rng(0).normal(size=(2, 5000)).astype(np.float32)
    scheme = Scheme(dtype=QuantType.INT8, symmetric=True)
    scale, _ = best_scales(x, scheme)
    monkeypatch.setattr("onnxq.numerics.scale_search._CHUNK", 700)
    pieces, _ = best_scales(x, scheme)
    np.testing.assert_allclose(pieces, scale, rtol=1e-5)
