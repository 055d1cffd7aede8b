import numpy as np
import pytest
from onnxq.equalizers import LinearInputs, LinearWeight, Scales, make_equalizer, make_equalizers
from onnxq.errors import RecipeError
from onnxq.types.recipe import Recipe
from onnxq.types.scheme import PerChannel, QuantType, Scheme

WEIGHTS = Scheme(dtype=QuantType.INT8, symmetric=True, granularity=PerChannel(axis=1))
CODES = Scheme(dtype=QuantType.UINT8, symmetric=False)


def _inputs(x, *weights):
    return LinearInputs(
        minimum=np.minimum(x.min(axis=0), 0).astype(np.float64),
        maximum=np.maximum(x.max(axis=0), 0).astype(np.float64),
        squares=np.square(x, dtype=np.float64).mean(axis=0),
        activations=CODES,
        layers=tuple(LinearWeight(weight=weight, axis=0, scheme=WEIGHTS) for weight in weights),
    )


def _chosen(*names):
    return make_equalizers(Recipe.parse({"equalize": list(names)}).equalize)


def _rounded(x, low, high, levels):
    step = (high - low) / levels
    return np.round(x / step) * step


def _true_error(x, weight, scale):
    """Mean squared error of the product with both sides rounded, in float64, over that of the exact one."""
    a, w = x / scale, weight.astype(np.float64) * scale[:, None]
    exact = x @ weight.astype(np.float64)
    top = np.abs(w).max(axis=0)
    got = _rounded(a, a.min(), a.max(), 255) @ _rounded(w, -top, top, 254)
    return np.mean((got - exact) ** 2) / np.mean(exact**2)


@pytest.fixture
def outliers():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 64))
    x[:, [3, 40]] *= 60
    return x, rng.standard_normal((64, 48)).astype(np.float32)


def test_outlier_features_move_into_the_weights_and_the_error_falls_as_foretold(outliers):
    x, weight = outliers
    found = _chosen("smoothquant")[0](_inputs(x, weight))
    assert isinstance(found, Scales)
    assert found.scale[3] > 5 * np.median(found.scale)
    before, after = _true_error(x, weight, np.ones(64)), _true_error(x, weight, found.scale)
    assert after < before / 8
    assert found.before == pytest.approx(before, rel=0.2)
    assert found.after == pytest.approx(after, rel=0.2)


def test_the_scales_of_a_given_alpha_are_the_papers():
    x = np.array([[4.0, -1.0, 0.25], [-8.0, 0.5, 0.125]])
    weight = np.float32([[1, -2], [4, 0.5], [0.25, 1]])
    found = _chosen("smoothquant:alpha=0.5")[0](_inputs(x, weight))
    expected = np.sqrt([8, 1, 0.25]) / np.sqrt([2, 4, 1])
    np.testing.assert_allclose(found.scale, expected / np.exp(np.log(expected).mean()), rtol=2**-12)


def test_layers_that_read_the_same_features_are_scaled_by_the_largest_weight(outliers):
    x, weight = outliers
    one, two = (
        _chosen("smoothquant:alpha=0")[0](_inputs(x, *each)).scale for each in ((weight,), (weight, 3 * weight))
    )
    np.testing.assert_allclose(one, two)  # the geometric mean is 1 in both
    assert not np.allclose(one, _chosen("smoothquant:alpha=0")[0](_inputs(x, weight, weight[::-1])).scale)


def test_nothing_is_done_where_nothing_is_gained():
    rng = np.random.default_rng(1)
    found = _chosen("smoothquant")[0](
        _inputs(rng.uniform(-1, 1, (500, 32)), rng.uniform(-1, 1, (32, 16)).astype(np.float32))
    )
    assert isinstance(found, str)
    assert "no alpha lowers the expected error by 5%" in found


def test_dead_features_and_dead_weights_keep_their_scale():
    x = np.array([[0.0, 5.0, 1.0, 1.0]])
    weight = np.float32([[1, 1], [0, 0], [2, 1], [1, 3]])
    found = _chosen("smoothquant:alpha=0.5")[0](_inputs(x, weight))
    np.testing.assert_array_equal(found.scale[:2], 1)
    assert np.isfinite(found.scale).all()


def test_scales_have_so_few_bits_that_the_order_of_sums_never_shows(outliers):
    x, weight = outliers
    found = _chosen("smoothquant")[0](_inputs(x, weight)).scale
    np.testing.assert_array_equal(np.ldexp(np.frexp(found)[0], 12) % 1, 0)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("smoothqant", "unknown equalizer 'smoothqant'; did you mean 'smoothquant'?"),
        ("smoothquant:alfa=1", "equalizer 'smoothquant' has no option 'alfa'; did you mean 'alpha'?"),
        ("smoothquant:alpha=2", "alpha lies in 0 .. 1"),
        ("smoothquant:alpha=much", "option 'alpha'"),
    ],
)
def test_a_misspelt_equalizer(choice, message):
    with pytest.raises(RecipeError) as caught:
        make_equalizer(Recipe.parse({"equalize": choice}).equalize[0])
    assert message in str(caught.value)


def test_the_same_twice_is_refused():
    with pytest.raises(RecipeError, match="'smoothquant' is there twice; take one of them"):
        _chosen("smoothquant", "smoothquant:alpha=0.5")
