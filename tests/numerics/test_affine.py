import itertools

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnxq.errors import ModelError, RecipeError
from onnxq.numerics import affine
from onnxq.numerics.affine import dequantize, params_from_range, quantize, storage_array, weight_range
from onnxq.types.scheme import (
    PerBlock,
    PerChannel,
    PerTensor,
    PerToken,
    QuantParams,
    QuantType,
    Rounding,
    ScaleType,
    Scheme,
)

INTEGERS = [t for t in QuantType if not t.is_float and t is not QuantType.INT32]


def scheme(dtype=QuantType.INT8, symmetric=True, **parts):
    return Scheme(dtype=dtype, symmetric=symmetric, **parts)


class TestPublishedNumbers:
    X = np.array(
        [0, -7.2955, -174.8314, -194.0518, 174.6870, 376.0793, -29.7248, -143.4094, 260.2398, -57.8868], np.float32
    )

    def test_symmetric_8_bit(self):
        params = params_from_range(self.X.min(), self.X.max(), scheme())
        codes = quantize(self.X, params)
        # The published scale is of unrounded values: x with four decimals gives the next float32 above it.
        assert float(params.scale) == pytest.approx(2.961254119873047, rel=1e-7)
        assert int(params.zero_point) == 0
        assert codes.tolist() == [0, -2, -59, -66, 59, 127, -10, -48, 88, -20]
        assert np.mean((dequantize(codes, params) - self.X) ** 2) == pytest.approx(0.73718, abs=5e-6)

    def test_asymmetric_8_bit(self):
        params = params_from_range(self.X.min(), self.X.max(), scheme(QuantType.UINT8, symmetric=False))
        codes = quantize(self.X, params)
        assert float(params.scale) == 2.2358081340789795
        assert int(params.zero_point) == 87
        assert codes.tolist() == [87, 84, 9, 0, 165, 255, 74, 23, 203, 61]
        assert np.mean((dequantize(codes, params) - self.X) ** 2) == pytest.approx(0.24345, abs=5e-6)

    def test_absmax(self):
        assert quantize(np.float32([0.1]), params_from_range(-3.2, 3.2, scheme())).tolist() == [4]

    def test_zero_point_of_a_signed_type(self):
        params = params_from_range(-3.0, 3.2, scheme(symmetric=False))
        assert 1 / float(params.scale) == pytest.approx(41.13, abs=0.005)
        assert int(params.zero_point) == -5
        assert quantize(np.float32([0.1]), params).tolist() == [-1]

    def test_dynamic_quantize_linear(self):
        x = np.float32([0, 2, -3, -2.5, 1.34, 0.5])
        params = params_from_range(x.min(), x.max(), scheme(QuantType.UINT8, symmetric=False))
        assert params.scale == np.float32(0.0196078438)
        assert int(params.zero_point) == 153

    def test_quantize_linear_per_axis(self):
        x = np.float32(
            [
                [
                    [[-162, 10], [-100, 232], [-20, -50]],
                    [[-76, 0], [0, 252], [32, -44]],
                    [[245, -485], [-960, -270], [-375, -470]],
                ]
            ]
        )
        params = QuantParams(
            scheme=scheme(QuantType.UINT8, symmetric=False, granularity=PerChannel(axis=1)),
            scale=np.float32([2, 4, 5]),
            zero_point=np.int32([84, 24, 196]),
        )
        # 84 + rint(-162 / 2) = 3 and so on, by hand: every quotient is whole except 10 / 4, 250 / 4 ...
        assert quantize(x, params).tolist() == [
            [
                [[3, 89], [34, 200], [74, 59]],
                [[5, 24], [24, 87], [32, 13]],
                [[245, 99], [4, 142], [121, 102]],
            ]
        ]


class TestParameters:
    def test_restricted_range_leaves_out_the_smallest_code(self):
        params = params_from_range(-127.0, 100.0, scheme(narrow=True))
        assert params.scale == 1
        assert quantize(np.float32([-127, 127, -500]), params).tolist() == [-127, 127, -127]

    def test_full_range_uses_all_codes_over_the_same_width(self):
        params = params_from_range(-127.5, 100.0, scheme(narrow=False))
        assert params.scale == 1
        assert quantize(np.float32([-127.5, 127.5]), params).tolist() == [-128, 127]

    def test_symmetric_unsigned_codes_lie_around_the_middle(self):
        params = params_from_range(-12.7, 3.0, scheme(QuantType.UINT8))
        assert params.scale == np.float32(12.7) / np.float32(127)
        assert int(params.zero_point) == 128
        assert quantize(np.float32([-12.7, 0, 12.7]), params).tolist() == [1, 128, 255]

    @pytest.mark.parametrize(("low", "high", "zero_point"), [(2.0, 6.0, 0), (-6.0, -2.0, 255)])
    def test_the_range_is_widened_to_hold_zero(self, low, high, zero_point):
        params = params_from_range(low, high, scheme(QuantType.UINT8, symmetric=False))
        assert params.scale == np.float32(6) / np.float32(255)
        assert int(params.zero_point) == zero_point

    def test_a_dead_tensor_has_scale_one(self):
        for kind in (scheme(), scheme(QuantType.UINT8, symmetric=False)):
            assert float(params_from_range(0.0, 0.0, kind).scale) == 1

    def test_a_dead_channel_takes_the_smallest_scale_of_the_living(self):
        channels = scheme(granularity=PerChannel(axis=0))
        params = params_from_range([0.0, -127.0, 0.0, 0.0], [0.0, 0.0, 254.0, 0.0], channels)
        assert params.scale.tolist() == [1, 1, 2, 1]

    def test_min_scale_holds_for_dead_and_living_channels(self):
        channels = scheme(granularity=PerChannel(axis=0))
        params = params_from_range([0.0, -127.0], [0.0, 0.0], channels, min_scale=[3.0, 2.0])
        assert params.scale.tolist() == [3, 2]

    def test_min_scale_keeps_the_zero_point_true(self):
        params = params_from_range(-1.0, 1.0, scheme(QuantType.UINT8, symmetric=False), min_scale=0.5)
        assert float(params.scale) == 0.5
        assert int(params.zero_point) == 2

    @pytest.mark.parametrize("extent", [1e-45, 1e-39, 1e-38])
    @pytest.mark.parametrize("dtype", INTEGERS)
    def test_tiny_ranges_get_a_normal_scale(self, dtype, extent):
        for symmetric in (True, False):
            params = params_from_range(-extent, extent, scheme(dtype, symmetric))
            assert params.scale >= np.finfo(np.float32).smallest_normal

    def test_a_range_wider_than_float32_has_a_finite_scale(self):
        largest = float(np.finfo(np.float32).max)
        params = params_from_range(-largest, largest, scheme(QuantType.UINT8, symmetric=False))
        assert np.isfinite(params.scale)
        assert int(params.zero_point) in (127, 128)

    @pytest.mark.parametrize("dtype", [QuantType.FLOAT8E4M3FN, QuantType.FLOAT8E5M2, QuantType.FLOAT4E2M1])
    def test_the_largest_value_is_the_largest_code_of_a_float_type(self, dtype):
        params = params_from_range(-3.0, 2.0, scheme(dtype))
        assert quantize(np.float32([-3]), params).tolist() == [-float(ml_dtypes.finfo(_ml(dtype)).max)]

    @pytest.mark.parametrize("dtype", [QuantType.FLOAT16, QuantType.BFLOAT16])
    def test_half_precision_has_no_scale(self, dtype):
        params = params_from_range(-3.0, 2.0, scheme(dtype))
        x = np.float32([0.1, -3.0, 1e30])
        saturated = np.clip(x, *[sign * float(ml_dtypes.finfo(_ml(dtype)).max) for sign in (-1, 1)])
        assert params.scale == 1
        assert quantize(x, params).tolist() == saturated.astype(_ml(dtype)).astype(np.float32).tolist()

    def test_a_float_type_has_no_zero_point(self):
        with pytest.raises(RecipeError, match="float8e4m3fn has no zero point"):
            scheme(QuantType.FLOAT8E4M3FN, symmetric=False)

    @pytest.mark.parametrize("kind", ScaleType)
    def test_scales_are_of_their_type_and_clip_nothing(self, kind):
        rng = np.random.default_rng(1)
        high = np.exp(rng.uniform(-3, 8, 200)).astype(np.float32)
        params = params_from_range(-high, high, scheme(granularity=PerChannel(axis=0), scale_type=kind))
        stored = {
            ScaleType.FLOAT32: params.scale,
            ScaleType.FLOAT16: params.scale.astype(np.float16).astype(np.float32),
            ScaleType.BFLOAT16: params.scale.astype(ml_dtypes.bfloat16).astype(np.float32),
            ScaleType.POWER_OF_TWO: np.exp2(np.rint(np.log2(params.scale))),
        }[kind]
        np.testing.assert_array_equal(params.scale, stored)
        assert (params.scale.astype(np.float64) * 127 >= high * (1 - 1e-7)).all()
        assert (params.scale.astype(np.float64) * 127 < high * 2).all()


class TestGranularity:
    @pytest.mark.parametrize(
        "granularity",
        [
            PerTensor(),
            PerChannel(axis=0),
            PerChannel(axis=-1),
            PerBlock(axis=1, size=4),
            PerBlock(axis=-3, size=2),
            PerBlock(axis=2, size=100),
            PerToken(),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("symmetric", [True, False])
    def test_each_group_is_quantized_as_if_alone(self, granularity, symmetric):
        x = np.random.default_rng(3).normal(size=(3, 10, 7)).astype(np.float32)
        whole = scheme(QuantType.INT4, symmetric, granularity=granularity)
        params = params_from_range(*weight_range(x, whole), whole)
        codes = quantize(x, params)
        values = dequantize(codes, params)
        assert codes.shape == values.shape == x.shape
        alone = scheme(QuantType.INT4, symmetric)
        seen = 0
        for index, group in _groups(x.shape, granularity):
            expected = params_from_range(x[group].min(), x[group].max(), alone)
            assert params.scale[index] == expected.scale
            assert params.zero_point[index] == expected.zero_point
            np.testing.assert_array_equal(codes[group], quantize(x[group], expected))
            np.testing.assert_array_equal(values[group], dequantize(codes[group], expected))
            seen += x[group].size
        assert seen == x.size

    def test_an_axis_must_exist(self):
        with pytest.raises(RecipeError, match="no axis 3"):
            weight_range(np.zeros((2, 2)), scheme(granularity=PerChannel(axis=3)))
        with pytest.raises(RecipeError, match="no axis was chosen"):
            weight_range(np.zeros((2, 2)), scheme(granularity=PerChannel()))

    @pytest.mark.parametrize(
        ("shape", "granularity"),
        [
            ((), PerTensor()),
            *itertools.product(
                [(0,), (3, 0), (0, 3)], [PerTensor(), PerChannel(axis=0), PerBlock(axis=0, size=2), PerToken()]
            ),
        ],
    )
    def test_scalars_and_empty_tensors(self, shape, granularity):
        x = np.zeros(shape, np.float32)
        kind = scheme(granularity=granularity)
        params = params_from_range(*weight_range(x, kind), kind)
        assert dequantize(quantize(x, params), params).shape == shape

    def test_tensors_larger_than_a_slab(self, monkeypatch):
        x = np.random.default_rng(5).normal(size=(9, 33)).astype(np.float32)
        for granularity in (PerTensor(), PerChannel(axis=0), PerChannel(axis=1), PerBlock(axis=0, size=4)):
            kind = scheme(QuantType.UINT8, False, granularity=granularity)
            params = params_from_range(*weight_range(x, kind), kind)
            codes = quantize(x, params)
            values = dequantize(codes, params)
            with monkeypatch.context() as patch:
                patch.setattr(affine, "_SLAB", 40)
                np.testing.assert_array_equal(quantize(x, params), codes)
                np.testing.assert_array_equal(dequantize(codes, params), values)

    def test_a_weight_that_is_not_finite_is_refused(self):
        for value in (np.nan, np.inf):
            with pytest.raises(ModelError, match="NaN or infinite"):
                weight_range(np.float32([[1, value]]), scheme())


class TestProperties:
    @settings(max_examples=100, deadline=None)
    @given(
        x=hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
        dtype=st.sampled_from(INTEGERS),
        symmetric=st.booleans(),
        narrow=st.booleans(),
    )
    def test_error_is_at_most_half_a_step_and_zero_is_exact(self, x, dtype, symmetric, narrow):
        kind = scheme(dtype, symmetric, narrow=narrow)
        params = params_from_range(x.min(), x.max(), kind)
        codes = quantize(x, params)
        values = dequantize(codes, params).astype(np.float64)
        low, high = kind.code_range
        assert codes.min() >= low
        assert codes.max() <= high
        scale = float(params.scale)
        # The quotient, the product and the zero point's own quotient are rounded in float32, that is relative to codes.
        slack = 1 + 2.0**-22 * (high - low)
        assert np.all(np.abs(values - x) <= scale / 2 * slack)
        assert dequantize(quantize(np.zeros(1, np.float32), params), params)[0] == 0

    @settings(max_examples=100, deadline=None)
    @given(
        x=hnp.arrays(np.float32, (4, 6), elements=st.floats(-100, 100, width=32)),
        dtype=st.sampled_from([t for t in QuantType if t is not QuantType.INT32]),
        granularity=st.sampled_from([PerTensor(), PerChannel(axis=1), PerBlock(axis=1, size=4), PerToken()]),
        strategy=st.sampled_from([Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY]),
    )
    def test_quantizing_what_was_quantized_changes_nothing(self, x, dtype, granularity, strategy):
        kind = scheme(dtype, granularity=granularity, rounding=strategy)
        params = params_from_range(*weight_range(x, kind), kind)
        codes = quantize(x, params)
        np.testing.assert_array_equal(quantize(dequantize(codes, params), params), codes)


class TestRounding:
    def test_the_scheme_chooses_the_rounding(self):
        x = np.float32([0.5, 1.5, -0.5, 1.2, -1.2])
        found = {
            strategy: quantize(x, _unit(scheme(rounding=strategy))).tolist()
            for strategy in Rounding
            if strategy is not Rounding.STOCHASTIC
        }
        assert found == {
            Rounding.NEAREST_EVEN: [0, 2, 0, 1, -1],
            Rounding.NEAREST_AWAY: [1, 2, -1, 1, -1],
            Rounding.FLOOR: [0, 1, -1, 1, -2],
            Rounding.CEIL: [1, 2, 0, 2, -1],
        }

    def test_a_caller_may_replace_it(self):
        x = np.float32([[0.4, 0.6], [1.4, 1.6]])
        up = np.array([[1, 0], [0, 1]])
        codes = quantize(x, _unit(scheme()), round_=lambda quotient: np.floor(quotient) + up)
        assert codes.tolist() == [[1, 0], [1, 2]]


class TestStorage:
    @pytest.mark.parametrize("dtype", list(QuantType))
    def test_every_code_survives(self, dtype):
        codes = np.array([dtype.minimum, 0, dtype.maximum], np.float32 if dtype.is_float else np.int64)
        stored = storage_array(codes, dtype)
        assert stored.dtype == _ml(dtype)
        np.testing.assert_array_equal(stored.astype(codes.dtype), codes)


def _ml(dtype):
    names = {
        QuantType.INT3: "int4",
        QuantType.FLOAT4E2M1: "float4_e2m1fn",
        QuantType.FLOAT8E4M3FN: "float8_e4m3fn",
        QuantType.FLOAT8E5M2: "float8_e5m2",
    }
    name = names.get(dtype, dtype.value)
    return np.dtype(getattr(ml_dtypes, name, name))


def _unit(kind):
    return QuantParams(scheme=kind, scale=np.asarray(np.float32(1)), zero_point=np.asarray(np.int32(0)))


def _groups(shape, granularity):
    """Yield the index of each scale and the elements it belongs to, by plain slicing."""
    everything = (slice(None),) * len(shape)
    if isinstance(granularity, PerTensor):
        yield (), everything
        return
    axis = (-1 if isinstance(granularity, PerToken) else granularity.axis) % len(shape)
    if isinstance(granularity, PerChannel):
        for i in range(shape[axis]):
            yield i, (*everything[:axis], i, *everything[axis + 1 :])
        return
    size = granularity.size if isinstance(granularity, PerBlock) else shape[axis]
    counts = [-(-n // size) if a == axis else n for a, n in enumerate(shape)]
    for index in itertools.product(*map(range, counts)):
        where = list(index)
        where[axis] = slice(index[axis] * size, (index[axis] + 1) * size)
        yield index, tuple(where)
