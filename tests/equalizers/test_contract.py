"""What holds for every registered equalizer."""

import itertools

import numpy as np
import pytest
from onnxq.equalizers import LinearInputs, LinearWeight, Place, Scales, equalizers, make_equalizer
from onnxq.types.choices import EqualizerChoice
from onnxq.types.scheme import PerBlock, PerChannel, PerTensor, QuantType, Scheme

CODES = Scheme(dtype=QuantType.UINT8, symmetric=False)
GRAINS = (PerTensor(), PerChannel(axis=0), PerBlock(axis=1, size=16))


def _features(grain, seed=0):
    rng = np.random.default_rng(seed)
    spread = np.exp(2 * rng.standard_normal(40))
    spread[3] = 0  # a dead feature
    weights = [rng.standard_normal((24, 40)).astype(np.float32) for _ in range(2)]
    weights[0][:, 5] = weights[1][:, 5] = 0  # and one that nothing reads
    scheme = Scheme(dtype=QuantType.INT4, symmetric=True, granularity=grain)
    return LinearInputs(
        minimum=-spread,
        maximum=2 * spread,
        squares=spread**2 / 3,
        activations=CODES,
        layers=tuple(LinearWeight(weight=weight, axis=1, scheme=scheme) for weight in weights),
    )


def _named(place):
    return [name for name, kind in equalizers.items() if kind.place is place]


@pytest.mark.parametrize("name", equalizers.names())
def test_it_says_where_it_belongs_and_is_documented(name):
    kind = equalizers.get(name)
    assert isinstance(kind.place, Place)
    assert isinstance(kind.rank, int)
    assert kind.__doc__
    assert make_equalizer(EqualizerChoice(name=name)) == kind()


@pytest.mark.parametrize(("name", "grain"), list(itertools.product(_named(Place.INPUTS), GRAINS)), ids=str)
def test_scales_of_inputs(name, grain):
    inputs = _features(grain)
    before = [layer.weight.copy() for layer in inputs.layers]
    found = equalizers.get(name)()(inputs)
    for layer, weight in zip(inputs.layers, before, strict=True):
        np.testing.assert_array_equal(layer.weight, weight)
    if isinstance(found, str):
        assert found
        return
    assert isinstance(found, Scales)
    assert found.scale.shape == (40,)
    assert np.isfinite(found.scale).all()
    assert (found.scale > 0).all()
    assert 0 < found.after < found.before
    np.testing.assert_array_equal(equalizers.get(name)()(_features(grain)).scale, found.scale)


@pytest.mark.parametrize("name", _named(Place.RANGES))
def test_scales_of_ranges_level_both_sides(name):
    first, second = np.array([1.0, 8.0, 0.0, 3.0]), np.array([4.0, 2.0, 5.0, 0.0])
    scale = equalizers.get(name)()(first, second)
    np.testing.assert_allclose(first[:2] / scale[:2], second[:2] * scale[:2])
    np.testing.assert_array_equal(scale[2:], 1)


@pytest.mark.parametrize("name", _named(Place.LOWEST))
def test_what_is_taken_off_is_never_below_zero_nor_above_the_lowest_value(name):
    lowest = np.array([-3.0, 0.0, 2.5])
    taken = equalizers.get(name)()(lowest)
    assert (taken >= 0).all()
    assert (taken <= np.maximum(lowest, 0)).all()


@pytest.mark.parametrize("name", _named(Place.STREAM))
@pytest.mark.parametrize("width", [1, 7, 24, 128])
def test_a_turn_keeps_lengths(name, width):
    matrix = equalizers.get(name)()(width)
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(width), atol=1e-12)
    np.testing.assert_array_equal(matrix, equalizers.get(name)()(width))
