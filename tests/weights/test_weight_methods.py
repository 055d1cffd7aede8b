import numpy as np
import pytest
from onnxq.errors import ModelError, RecipeError
from onnxq.numerics.affine import dequantize, params_from_range, quantize, weight_range
from onnxq.types.inputs import Inputs
from onnxq.types.scheme import PerBlock, PerChannel, PerTensor, QuantType, Scheme
from onnxq.weights import make_weight_method, weight_methods
from onnxq.weights.mse import LeastSquaredError

# Every type by channel; the other granularities for a type of each kind.
SCHEMES = [
    Scheme(dtype=dtype, symmetric=symmetric, granularity=granularity)
    for dtype in QuantType
    for symmetric in ((True,) if dtype.is_float or dtype is QuantType.INT32 else (True, False))
    for granularity in (PerChannel(axis=0), PerTensor(), PerBlock(axis=1, size=16))
    if granularity.kind == "per-channel" or dtype in (QuantType.INT8, QuantType.UINT4, QuantType.FLOAT8E4M3FN)
]


def _weight(shape=(6, 40), seed=0):
    weight = np.random.default_rng(seed).standard_t(4, size=shape).astype(np.float32)
    weight[2] = 0
    return weight


@pytest.mark.parametrize("name", weight_methods.names())
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_contract(name, scheme):
    weight = _weight()
    before = weight.copy()
    codes, params = make_weight_method(name)(weight, scheme)
    np.testing.assert_array_equal(weight, before)
    assert codes.shape == weight.shape
    assert codes.dtype == (np.float32 if scheme.dtype.is_float else np.int32)
    low, high = scheme.code_range
    assert low <= codes.min()
    assert codes.max() <= high
    assert params.scheme == scheme
    assert params.scale.dtype == np.float32
    assert params.zero_point.dtype == np.int32
    expected = params_from_range(*weight_range(weight, scheme), scheme)
    assert params.scale.shape == params.zero_point.shape == expected.scale.shape
    assert (params.scale > 0).all()
    assert (dequantize(codes, params)[2] == 0).all()
    again, same = make_weight_method(name)(weight, scheme)
    np.testing.assert_array_equal(again, codes)
    assert same == params


@pytest.mark.parametrize("name", weight_methods.names())
def test_min_scale_holds_for_every_channel(name):
    scheme = Scheme(dtype=QuantType.INT8, symmetric=True, granularity=PerChannel(axis=0))
    least = np.float32([0, 1, 2, 0.001, 0, 3])
    codes, params = make_weight_method(name)(_weight(), scheme, min_scale=least)
    assert (params.scale >= least).all()
    np.testing.assert_array_equal(codes, quantize(_weight(), params))


@pytest.mark.parametrize("name", weight_methods.names())
def test_a_weight_with_nan_is_refused(name):
    with pytest.raises(ModelError, match="NaN"):
        make_weight_method(name)(np.float32([[np.nan, 1]]), Scheme(dtype=QuantType.INT8, symmetric=True))


@pytest.mark.parametrize("name", weight_methods.names())
@pytest.mark.parametrize("value", [1e-45, 1e-38, 3e38])
def test_extreme_weights_have_finite_normal_scales(name, value):
    for symmetric in (True, False):
        scheme = Scheme(dtype=QuantType.INT8, symmetric=symmetric, granularity=PerChannel(axis=0))
        codes, params = make_weight_method(name)(np.float32([[value, -value], [0, value]]), scheme)
        assert (params.scale >= np.finfo(np.float32).smallest_normal).all()
        values = dequantize(codes, params).astype(np.float64)
        assert (np.abs(values - np.float32([[value, -value], [0, value]])) <= params.scale[:, None]).all()


def test_rtn_is_the_operators_quantization_of_the_values_range():
    scheme = Scheme(dtype=QuantType.INT4, symmetric=True, granularity=PerBlock(axis=0, size=4))
    weight = _weight((10, 3))
    codes, params = make_weight_method("rtn")(weight, scheme)
    np.testing.assert_array_equal(params.scale[2], np.abs(weight[8:]).max(axis=0) / np.float32(7))
    np.testing.assert_array_equal(codes[8:], np.rint(weight[8:] / params.scale[2]))


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if s.dtype is not QuantType.INT32], ids=str)
def test_mse_is_never_worse_than_rtn(scheme):
    weight = _weight(seed=1)
    errors = []
    for name in ("rtn", "mse"):
        codes, params = make_weight_method(name)(weight, scheme)
        errors.append(np.sum((dequantize(codes, params).astype(np.float64) - weight) ** 2))
    assert errors[1] <= errors[0] * (1 + 1e-6)


def test_mse_gains_much_at_4_bits():
    weight = np.random.default_rng(0).normal(size=(64, 128)).astype(np.float32)
    for symmetric, gain in ((True, 0.88), (False, 0.91)):
        scheme = Scheme(dtype=QuantType.INT4, symmetric=symmetric, granularity=PerBlock(axis=1, size=32))
        errors = []
        for name in ("rtn", "mse"):
            codes, params = make_weight_method(name)(weight, scheme)
            errors.append(np.sum((dequantize(codes, params) - weight) ** 2))
        assert errors[1] < gain * errors[0]


def test_negative_scales_need_all_codes():
    weight = _weight((8, 32))
    method = make_weight_method("mse", {"negative_scales": True})
    block = PerBlock(axis=1, size=16)
    narrow = Scheme(dtype=QuantType.INT4, symmetric=True, granularity=block)
    full = Scheme(dtype=QuantType.INT4, symmetric=True, narrow=False, granularity=block)
    assert (method(weight, narrow)[1].scale > 0).all()
    codes, params = method(weight, full)
    assert (params.scale < 0).any()
    _, positive = make_weight_method("mse")(weight, full)
    assert np.sum((dequantize(codes, params) - weight) ** 2) < np.sum(
        (dequantize(quantize(weight, positive), positive) - weight) ** 2
    )


def test_importance_lowers_the_error_of_what_matters():
    weight = _weight((16, 64), seed=2)
    importance = np.ones((1, 64), np.float32)
    importance[0, ::16] = 100
    scheme = Scheme(dtype=QuantType.UINT4, symmetric=False, granularity=PerBlock(axis=1, size=32))
    errors = []
    inputs = Inputs(axis=1, squares=importance[0].astype(np.float64))
    for method in ("mse", "mse:importance=true"):
        codes, params = make_weight_method(method)(weight, scheme, inputs=inputs)
        errors.append(np.sum(importance * (dequantize(codes, params) - weight) ** 2))
    assert errors[1] < errors[0]


class TestNames:
    def test_an_unknown_method_is_named_with_its_nearest(self):
        with pytest.raises(RecipeError, match="unknown weight method 'mes'; did you mean 'mse'"):
            make_weight_method("mes")

    def test_an_unknown_option_is_named_with_its_nearest(self):
        with pytest.raises(RecipeError, match="weight method 'mse' has no option 'step'; did you mean 'steps'"):
            make_weight_method("mse", {"step": 3})
        with pytest.raises(RecipeError, match="weight method 'rtn' has no option 'step'; it has no options"):
            make_weight_method("rtn", {"step": 3})

    def test_a_value_of_the_wrong_type_or_size(self):
        with pytest.raises(RecipeError, match=r"weight method 'mse': option 'steps'.*'many'"):
            make_weight_method("mse", {"steps": "many"})
        with pytest.raises(RecipeError, match="steps must be at least 2, not 1"):
            make_weight_method("mse", {"steps": 1})

    def test_options_reach_the_method(self):
        assert make_weight_method("mse", {"steps": 8}) == LeastSquaredError(steps=8)
