"""Weight methods that go by the products of inputs: against slow references, and against each other on one layer."""

import numpy as np
import pytest
from onnxq.errors import ModelError, RecipeError
from onnxq.numerics.affine import dequantize, params_from_range, quantize, weight_range
from onnxq.numerics.inverse import damped, fitting_damping, inverse_factor
from onnxq.types.inputs import Inputs, Needs
from onnxq.types.scheme import PerBlock, PerChannel, PerTensor, QuantType, ScaleType, Scheme
from onnxq.weights import make_weight_method

BY_PRODUCTS = ["gptq", "adaround", "lkd"]
FOUR = Scheme(dtype=QuantType.UINT4, symmetric=False, granularity=PerBlock(axis=0, size=32), narrow=False)
CHANNEL = Scheme(dtype=QuantType.INT4, symmetric=True, granularity=PerChannel(axis=1))
SCHEMES = [FOUR, CHANNEL, Scheme(dtype=QuantType.INT8, symmetric=True, granularity=PerTensor())]


def correlated(features: int, rows: int = 2000, seed: int = 0) -> np.ndarray:
    """E[x x^T] of inputs that are mixed, and a few of which are large."""
    random = np.random.default_rng(seed)
    mix = random.normal(size=(features, features)) * np.exp(random.normal(size=features))[:, None] * 0.3
    x = random.standard_t(5, size=(rows, features)) @ (mix + np.eye(features)).T
    gram = x.T @ x / rows
    return (gram + gram.T) / 2


def known(gram: np.ndarray, axis: int = 0) -> Inputs:
    return Inputs(axis=axis, squares=np.diagonal(gram).copy(), products=gram)


def layer(features: int = 96, outputs: int = 40, seed: int = 1) -> np.ndarray:
    return (np.random.default_rng(seed).standard_t(6, size=(features, outputs)) * 0.05).astype(np.float32)


def error(weight: np.ndarray, made: tuple, gram: np.ndarray, axis: int = 0) -> float:
    change = np.moveaxis(dequantize(*made).astype(np.float64) - weight, axis, 0).reshape(len(gram), -1)
    return float(np.einsum("ko,ko->", change, gram @ change))


def obs_in_order(weight: np.ndarray, gram: np.ndarray, params) -> np.ndarray:
    """Optimal brain surgeon, one feature after the other: the inverse is computed anew for those that are left."""
    left = weight.astype(np.float64)
    codes = np.empty(weight.shape)
    for k in range(len(weight)):
        inverse = np.linalg.inv(gram[k:, k:])
        row = quantize(left.astype(np.float32), params)[k]
        codes[k] = row
        each = np.zeros_like(left, np.float32)
        each[k] = row
        value = (each - params.zero_point) * params.scale
        left[k:] -= np.outer(inverse[:, 0] / inverse[0, 0], left[k] - value[k])
    return codes


def obq(weight: np.ndarray, gram: np.ndarray, params) -> np.ndarray:
    """Optimal brain quantizer, exact and slow: every output rounds next the weight that costs it least."""
    codes = np.empty(weight.shape)
    for output in range(weight.shape[1]):
        left, inverse = weight[:, output].astype(np.float64), np.linalg.inv(gram)
        open_ = list(range(len(weight)))
        while open_:
            grid = np.clip(np.rint(left / params.scale[output]), *params.scheme.code_range)
            cost = (left - grid * params.scale[output]) ** 2 / np.diagonal(inverse)
            k = min(open_, key=lambda each: cost[each])
            codes[k, output] = grid[k]
            missed = (left[k] - grid[k] * params.scale[output]) / inverse[k, k]
            left = left - missed * inverse[:, k]
            inverse = inverse - np.outer(inverse[:, k], inverse[k]) / inverse[k, k]
            np.fill_diagonal(inverse, np.where(np.diagonal(inverse) > 1e-12, np.diagonal(inverse), 1.0))
            open_.remove(k)
    return codes


def test_the_factor_of_the_inverse() -> None:
    gram = correlated(20)
    factor = inverse_factor(gram)
    assert factor is not None
    np.testing.assert_allclose(factor.T @ factor, np.linalg.inv(gram), rtol=1e-9, atol=1e-12)
    assert (np.tril(factor, -1) == 0).all()
    assert inverse_factor(np.zeros((3, 3))) is None
    assert inverse_factor(damped(np.zeros((3, 3)), 0.01)) is not None


@pytest.mark.parametrize("features", [24, 300])
def test_gptq_is_obs_in_a_fixed_order_whatever_the_block(features: int) -> None:
    """One grid for each output, so that scales are known beforehand; 300 features make three lazy blocks."""
    gram, weight = correlated(features), layer(features, 5)
    made = make_weight_method("gptq:act_order=false")(weight, CHANNEL, inputs=known(gram))
    expected = obs_in_order(weight, damped(gram, 0.01), made[1])
    assert np.mean(made[0] == expected) > 0.995  # float32 against float64: a tie may fall to either side


def test_one_order_for_all_outputs_loses_little_against_obq() -> None:
    gram, weight = correlated(48), layer(48, 12)
    method = make_weight_method("gptq")
    codes, params = method(weight, CHANNEL, inputs=known(gram))
    exact = error(weight, (obq(weight, damped(gram, 0.01), params), params), gram)
    nearest = error(weight, (quantize(weight, params), params), gram)
    assert error(weight, (codes, params), gram) < exact + 0.15 * (nearest - exact)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_each_loses_less_than_weighed_rounding_and_sweeps_still_less(scheme: Scheme) -> None:
    gram, weight = correlated(96), layer()
    found = {
        name: error(weight, make_weight_method(name)(weight, scheme, inputs=known(gram)), gram)
        for name in ("rtn", "mse:importance=true", "adaround", "lkd", "gptq", "gptq:sweeps=2")
    }
    assert found["mse:importance=true"] < found["rtn"]
    assert found["adaround"] < 0.95 * found["mse:importance=true"]
    assert found["lkd"] < 0.6 * found["mse:importance=true"]
    assert found["gptq"] < 0.6 * found["mse:importance=true"]
    assert found["gptq:sweeps=2"] < found["gptq"]


@pytest.mark.parametrize("name", BY_PRODUCTS)
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_codes_fit_and_depend_on_nothing_but_the_arguments(name: str, scheme: Scheme) -> None:
    gram, weight = correlated(80), layer(80, 6)
    before = weight.copy(), gram.copy()
    codes, params = make_weight_method(name)(weight, scheme, inputs=known(gram))
    again, same = make_weight_method(name)(weight, scheme, inputs=known(gram))
    np.testing.assert_array_equal(codes, again)
    assert params == same
    np.testing.assert_array_equal(weight, before[0])
    np.testing.assert_array_equal(gram, before[1])
    assert codes.dtype == np.int32
    assert codes.min() >= scheme.code_range[0]
    assert codes.max() <= scheme.code_range[1]
    expected = params_from_range(*weight_range(weight, scheme), scheme)
    assert params.scale.shape == params.zero_point.shape == expected.scale.shape
    assert (params.scale > 0).all()


@pytest.mark.parametrize("name", BY_PRODUCTS)
def test_a_transposed_weight_and_a_convolution_of_kernel_one_get_the_same_codes(name: str) -> None:
    gram, weight = correlated(64), layer(64, 6)
    method = make_weight_method(name)
    codes, params = method(weight, FOUR, inputs=known(gram))
    turned = Scheme(dtype=QuantType.UINT4, symmetric=False, granularity=PerBlock(axis=1, size=32), narrow=False)
    other, others = method(np.ascontiguousarray(weight.T), turned, inputs=known(gram, axis=1))
    np.testing.assert_array_equal(other, codes.T)
    np.testing.assert_array_equal(others.scale, params.scale.T)
    channel = Scheme(dtype=QuantType.INT4, symmetric=True, granularity=PerChannel(axis=0))
    kernel = np.ascontiguousarray(weight.T)[:, :, None, None]
    conv, _ = method(kernel, channel, inputs=known(gram, axis=1))
    matrix, _ = method(weight, CHANNEL, inputs=known(gram))
    np.testing.assert_array_equal(conv[:, :, 0, 0], matrix.T)


@pytest.mark.parametrize("name", BY_PRODUCTS)
def test_features_that_were_always_zero_are_rounded_to_nearest(name: str) -> None:
    gram, weight = correlated(32), layer(32, 4)
    gram[5], gram[:, 5] = 0, 0
    codes, params = make_weight_method(name)(weight, CHANNEL, inputs=known(gram))
    assert np.abs(dequantize(codes, params)[5] - np.clip(weight[5], -7 * params.scale, 7 * params.scale)).max() <= (
        params.scale.max() * (1.0 if name == "adaround" else 0.51)
    )


@pytest.mark.parametrize("name", BY_PRODUCTS)
def test_what_is_not_along_the_features_or_not_known_is_left_to_mse(name: str) -> None:
    weight, gram = layer(), correlated(96)
    across = Scheme(dtype=QuantType.INT4, symmetric=True, granularity=PerBlock(axis=1, size=8))
    method, simple = make_weight_method(name), make_weight_method("mse:importance=true")
    assert method.needs is Needs.PRODUCTS
    for scheme, inputs in ((across, known(gram)), (FOUR, None), (FOUR, Inputs(axis=0, squares=np.diagonal(gram)))):
        codes, params = method(weight, scheme, inputs=inputs)
        expected, same = simple(weight, scheme, inputs=inputs)
        np.testing.assert_array_equal(codes, expected)
        assert params == same


def test_scales_stay_above_the_least_that_is_allowed() -> None:
    gram, weight = correlated(96), layer()
    least = np.linspace(0, 0.1, 40).astype(np.float32)
    for name in (*BY_PRODUCTS, "gptq:sweeps=3"):
        _, params = make_weight_method(name)(weight, CHANNEL, min_scale=least, inputs=known(gram))
        assert (params.scale >= least).all()


def test_a_broken_gram_matrix_is_refused() -> None:
    weight, gram = layer(), correlated(96)
    gram[0, 0] = np.nan
    with pytest.raises(ModelError, match="not finite"):
        make_weight_method("gptq")(weight, CHANNEL, inputs=known(gram))
    with pytest.raises(ModelError, match="not positive semidefinite"):
        make_weight_method("gptq")(weight, CHANNEL, inputs=known(np.ones((96, 96)) - 5 * np.eye(96)[::-1]))


def test_options_are_checked() -> None:
    for text in ("gptq:damping=0", "gptq:sweeps=-1", "adaround:rounds=0", "lkd:rounds=0", "hqq:p=2", "hqq:rounds=0"):
        with pytest.raises(RecipeError, match=f"weight method '{text.split(':', maxsplit=1)[0]}'"):
            make_weight_method(text)


def test_hqq_forgives_outliers() -> None:
    """The error with exponent 0.7 falls, whatever that does to squares."""
    weight = layer(256, 32)
    for scheme in (FOUR, CHANNEL):
        errors = []
        for name in ("rtn", "mse", "hqq"):
            made = make_weight_method(name)(weight, scheme)
            errors.append(np.sum(np.abs(dequantize(*made) - weight) ** 0.7))
        assert errors[2] < 0.985 * errors[0]
        assert errors[2] <= errors[1]


@pytest.mark.parametrize("name", ["hqq", *BY_PRODUCTS, "gptq:sweeps=2"])
@pytest.mark.parametrize("scale_type", [ScaleType.FLOAT32, ScaleType.FLOAT16])
def test_negative_scales_stay_negative_and_help(name: str, scale_type: ScaleType) -> None:
    """The extra code of -4..3 then serves whichever side needs it."""
    weight, gram = layer(), correlated(96)
    block = PerBlock(axis=0, size=16)
    scheme = Scheme(dtype=QuantType.INT3, symmetric=True, narrow=False, granularity=block, scale_type=scale_type)
    found = []
    for option in ("false", "true"):
        text = f"{name}{',' if ':' in name else ':'}negative_scales={option}"
        made = make_weight_method(text)(weight, scheme, inputs=known(gram))
        assert (np.abs(made[1].scale) > 1e-5).all()
        found.append(error(weight, made, gram) if name != "hqq" else float(np.abs(dequantize(*made) - weight).sum()))
        assert (made[1].scale < 0).any() == (option == "true")
    assert found[1] < found[0]


def test_few_rows_are_damped_more_and_other_rows_gain_by_it() -> None:
    """Two and a half rows a feature: what is best for these is not best for others."""
    random, weight = np.random.default_rng(3), layer(96, 24)
    mix = random.normal(size=(96, 96)) * 0.1 + np.eye(96)
    seen, others = (random.standard_t(5, size=(rows, 96)) @ mix for rows in (240, 20000))
    gram, fresh = seen.T @ seen / len(seen), others.T @ others / len(others)
    inputs = Inputs(axis=0, squares=np.diagonal(gram).copy(), products=gram, rows=240)
    for name in ("gptq:sweeps=2", "lkd"):
        light = make_weight_method(f"{name}{',' if ':' in name else ':'}damping=0.01")(weight, FOUR, inputs=inputs)
        fitting = make_weight_method(name)(weight, FOUR, inputs=inputs)
        assert error(weight, light, gram) < error(weight, fitting, gram)
        assert error(weight, fitting, fresh) < error(weight, light, fresh)
    assert fitting_damping(576, 0) == fitting_damping(576, 10**6) == 0.01
    assert fitting_damping(100, 500) == pytest.approx(0.1)
