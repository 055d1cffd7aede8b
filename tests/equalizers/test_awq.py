import numpy as np
import pytest
from onnxq.equalizers import LinearInputs, LinearWeight, Scales, make_equalizer
from onnxq.errors import RecipeError
from onnxq.numerics.affine import dequantize, params_from_range, quantize, weight_range
from onnxq.types.recipe import Recipe
from onnxq.types.scheme import PerBlock, QuantType, Scheme

SCHEME = Scheme(dtype=QuantType.UINT4, symmetric=False, granularity=PerBlock(axis=0, size=32))


def _awq(text="awq"):
    return make_equalizer(Recipe.parse({"equalize": text}).equalize[0])


def _inputs(x, weight):
    return LinearInputs(
        minimum=x.min(axis=0),
        maximum=x.max(axis=0),
        squares=np.square(x).mean(axis=0),
        activations=None,
        layers=(LinearWeight(weight=weight, axis=0, scheme=SCHEME),),
    )


def _true_error(x, weight, scale):
    scaled = (weight * scale[:, None]).astype(np.float32)
    params = params_from_range(*weight_range(scaled, SCHEME), SCHEME)
    got = (x / scale) @ dequantize(quantize(scaled, params), params).astype(np.float64)
    exact = x @ weight.astype(np.float64)
    return np.mean((got - exact) ** 2) / np.mean(exact**2)


def test_weights_of_large_features_get_finer_codes_and_the_error_falls_as_foretold():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4000, 128))
    x[:, ::16] *= 20
    weight = rng.standard_normal((128, 64)).astype(np.float32)
    found = _awq()(_inputs(x, weight))
    assert isinstance(found, Scales)
    assert found.scale[0] > 2 * found.scale[1]
    before, after = _true_error(x, weight, np.ones(128)), _true_error(x, weight, found.scale)
    assert after < before / 2
    assert (found.before, found.after) == pytest.approx((before, after), rel=0.1)


def test_even_features_gain_nothing():
    rng = np.random.default_rng(1)
    found = _awq()(_inputs(rng.standard_normal((4000, 64)), rng.standard_normal((64, 32)).astype(np.float32)))
    assert isinstance(found, str)
    assert "no alpha lowers the error by 2%" in found


def test_one_step_is_no_search():
    with pytest.raises(RecipeError, match="steps must be at least 2, not 1"):
        _awq("awq:steps=1")
