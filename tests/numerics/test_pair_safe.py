"""Weights whose sums of pairs cannot saturate, held against the instruction's own arithmetic."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnxq.numerics.affine import dequantize, params_from_range, quantize, weight_range
from onnxq.numerics.pair_safe import breaks, fit_pairs, pair_limit
from onnxq.types.scheme import PerChannel, PerTensor, QuantType, ScaleType, Scheme

CASES = [
    ((8, 5, 3, 3), (2, 3, 1), PerChannel(axis=0)),
    ((6, 4, 1, 1), (2, 3, 1), PerChannel(axis=0)),
    ((6, 7, 3), (2, 1), PerChannel(axis=0)),
    ((37, 9), (0,), PerChannel(axis=1)),
    ((9, 37), (1,), PerChannel(axis=0)),
    ((3, 16, 7), (1,), PerChannel(axis=2)),
    ((2, 32, 9), (2,), PerChannel(axis=1)),
    ((16, 12), (0,), PerTensor()),
]


def rounded(weight, granularity, **scheme):
    made = Scheme(dtype=QuantType.INT8, symmetric=True, granularity=granularity, **scheme)
    params = params_from_range(*weight_range(weight, made), made)
    return quantize(weight, params), params


def summed(codes, axes):
    """(sums, elements) in the order in which the kernel runs along them."""
    others = [axis for axis in range(codes.ndim) if axis not in axes]
    rows = codes.transpose(*others, *axes).reshape(-1, np.prod([codes.shape[axis] for axis in axes]))
    return np.pad(rows, ((0, 0), (0, rows.shape[1] % 2))).astype(np.int64)


def pmaddubsw(activations, rows):
    """Each row times the activations as PMADDUBSW and PMADDWD add them: pairs in saturating 16 bits, then 32."""
    products = rows * activations
    return np.clip(products[:, 0::2] + products[:, 1::2], -(2**15), 2**15 - 1).sum(axis=1)


def worst_activations(rows, rng):
    """All ends, alternating ends, the ends that each of the first rows likes least, and random ones."""
    width = rows.shape[1]
    yield np.full(width, 255)
    yield np.arange(width) % 2 * 255
    for row in rows[:16]:
        yield np.where(row > 0, 255, 0)
        yield np.where(row < 0, 255, 0)
    yield rng.integers(0, 256, width)


@pytest.mark.parametrize(("shape", "axes", "granularity"), CASES)
def test_no_activations_saturate_what_was_fitted(shape, axes, granularity):
    rng = np.random.default_rng(3)
    weight = rng.standard_normal(shape).astype(np.float32)
    codes, params = rounded(weight, granularity)
    fitted, grown = fit_pairs(weight, codes, params, axes, pair_limit(255))
    before, after = summed(codes, axes), summed(fitted, axes)
    assert any((pmaddubsw(a, before) != before @ a).any() for a in worst_activations(before, rng)), "nothing to repair"
    for activations in worst_activations(after, rng):
        np.testing.assert_array_equal(pmaddubsw(activations, after), after @ activations)
    assert breaks(codes, axes, 128) > 0
    assert breaks(fitted, axes, 128) == 0
    # Nearest codes except pairs that rounding brought over the limit, which give up one step between them.
    step = np.abs(dequantize(fitted, grown) - weight) / grown.scale.max()
    assert step.max() <= 1.0


@pytest.mark.parametrize(("shape", "axes", "granularity"), CASES)
def test_a_scale_grows_no_further_than_its_heaviest_pair_needs(shape, axes, granularity):
    weight = np.random.default_rng(4).standard_normal(shape).astype(np.float32)
    codes, params = rounded(weight, granularity)
    _, grown = fit_pairs(weight, codes, params, axes, 128)
    finer = quantize(weight, type(grown)(scheme=grown.scheme, scale=grown.scale * 0.97, zero_point=grown.zero_point))
    grew = grown.scale > params.scale
    assert grew.any()
    assert breaks(finer, axes, 128) >= np.count_nonzero(grew)
    np.testing.assert_array_equal(grown.scale[~grew], params.scale[~grew])
    assert (grown.scale <= 2 * params.scale).all()


def test_weights_of_opposite_signs_keep_all_their_bits():
    weight = np.tile(np.array([1.0, -1.0], np.float32), (4, 6))
    codes, params = rounded(weight, PerChannel(axis=0))
    fitted, grown = fit_pairs(weight, codes, params, (1,), 128)
    np.testing.assert_array_equal(fitted, codes)
    assert grown is params
    assert np.abs(fitted).max() == 127


def test_activations_of_seven_bits_saturate_nothing():
    assert pair_limit(255) == 128
    assert pair_limit(127) >= 2 * 127


def test_the_choices_of_a_method_stay_where_nothing_saturates():
    weight = np.array([[0.1, -0.9, -0.4, 1.0], [0.9, 1.0, 0.3, 0.2]], np.float32)
    codes, params = rounded(weight, PerChannel(axis=0))
    codes[0, 0] += 1  # a method may round otherwise than to the nearest
    fitted, grown = fit_pairs(weight, codes, params, (1,), 128)
    np.testing.assert_array_equal(fitted[0], codes[0])
    assert grown.scale[0] == params.scale[0]
    assert grown.scale[1] > params.scale[1]


def test_scales_stay_powers_of_two():
    weight = np.ones((2, 8), np.float32)
    codes, params = rounded(weight, PerChannel(axis=0), scale_type=ScaleType.POWER_OF_TWO)
    fitted, grown = fit_pairs(weight, codes, params, (1,), 128)
    assert (np.frexp(grown.scale)[0] == 0.5).all()
    assert breaks(fitted, (1,), 128) == 0


@given(
    st.integers(1, 9).flatmap(
        lambda width: st.lists(
            st.lists(st.floats(-3, 3, width=32), min_size=width, max_size=width), min_size=1, max_size=4
        )
    )
)
def test_whatever_the_weight(rows):
    weight = np.array(rows, np.float32)
    codes, params = rounded(weight, PerChannel(axis=0))
    fitted, _ = fit_pairs(weight, codes, params, (1,), 128)
    assert breaks(fitted, (1,), 128) == 0
    assert np.abs(fitted).max() <= 127
