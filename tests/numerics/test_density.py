"""The expected error against quantizing real samples, and against figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from onnxq.numerics.affine import dequantize, params_from_range, quantize
from onnxq.numerics.density import Distribution, Moments, code_points, distribution, expected_error
from onnxq.numerics.histogram import observe
from onnxq.numerics.rounding import rounding
from onnxq.types.scheme import QuantParams, QuantType, Rounding, ScaleType, Scheme

U8 = Scheme(dtype=QuantType.UINT8, symmetric=False)


def params(scheme: Scheme, scale: float, zero_point: int = 0) -> QuantParams:
    return QuantParams(scheme=scheme, scale=np.array([scale], np.float32), zero_point=np.array([zero_point], np.int32))


def test_a_flat_density_costs_a_twelfth_of_a_step_squared() -> None:
    flat = Moments(Distribution(edges=np.array([0.0, 255.0]), counts=np.array([10.0])))
    found = expected_error(flat, params(U8, 1.0))
    assert found.rounding[0] == pytest.approx(1 / 12)
    assert found.clipping[0] == 0.0


def test_clipping_a_flat_density() -> None:
    # Over [0, 510] half of the values lie beyond 255: the mean of (x - 255)^2 is 255^2 / 3 there and 1 / 12 below.
    flat = Moments(Distribution(edges=np.array([0.0, 510.0]), counts=np.array([1.0])))
    found = expected_error(flat, params(U8, 1.0))
    assert found.clipping[0] == pytest.approx(255**2 / 3 / 2)
    assert found.rounding[0] == pytest.approx(1 / 12 / 2)


def test_values_at_a_code_cost_nothing() -> None:
    points = Moments(Distribution(edges=np.array([0.0, 0.0, 2.0, 2.0]), counts=np.array([7.0, 0.0, 3.0])))
    found = expected_error(points, params(U8, 1.0))
    assert (found.clipping[0], found.rounding[0]) == (0.0, 0.0)
    found = expected_error(points, params(U8, 2 / 300))  # the largest code represents 1.7
    assert found.clipping[0] == pytest.approx(0.3 * 0.3**2, rel=1e-5)
    assert found.rounding[0] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    "scheme",
    [
        U8,
        Scheme(dtype=QuantType.INT8, symmetric=True),
        Scheme(dtype=QuantType.INT8, symmetric=True, narrow=False),
        Scheme(dtype=QuantType.UINT8, symmetric=True),
        Scheme(dtype=QuantType.INT4, symmetric=False),
        Scheme(dtype=QuantType.UINT16, symmetric=False),
        Scheme(dtype=QuantType.FLOAT8E4M3FN, symmetric=True),
        Scheme(dtype=QuantType.INT8, symmetric=True, scale_type=ScaleType.POWER_OF_TWO),
        Scheme(dtype=QuantType.INT4, symmetric=True, rounding=Rounding.FLOOR),
        Scheme(dtype=QuantType.INT4, symmetric=True, rounding=Rounding.CEIL),
        Scheme(dtype=QuantType.INT4, symmetric=True, rounding=Rounding.STOCHASTIC),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", ["normal", "relu", "skewed"])
def test_agrees_with_quantizing_the_samples(scheme: Scheme, shape: str) -> None:
    x = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    x = {"normal": x, "relu": np.maximum(x, 0), "skewed": np.exp(x) - 1}[shape]
    moments = Moments(distribution(observe(x)))
    chosen = params_from_range(np.array([-1.5]), np.array([2.5]), scheme)
    found = expected_error(moments, chosen)

    codes = code_points(scheme)
    low, high = (codes[[0, -1]] - chosen.zero_point[0]) * float(chosen.scale[0])
    single = QuantParams(scheme=scheme, scale=chosen.scale[0], zero_point=chosen.zero_point[0])
    round_ = rounding(scheme.rounding)
    squares = np.square(dequantize(quantize(x, single, round_=round_), single).astype(np.float64) - x)
    outside = (x < low) | (x > high)
    assert found.clipping[0] == pytest.approx(squares[outside].sum() / x.size, rel=0.01)
    assert found.rounding[0] == pytest.approx(squares[~outside].sum() / x.size, rel=0.01)
