"""The found range against trying ranges on the samples themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnxq.calibrators.mse import MeanSquaredError
from onnxq.numerics.affine import dequantize, params_from_range, quantize
from onnxq.numerics.histogram import observe
from onnxq.types.scheme import QuantType, Range, Scheme

Array = npt.NDArray[Any]


def samples(shape: str) -> Array:
    rng = np.random.default_rng(2)
    x = rng.standard_normal(40_000)
    return {
        "normal": x,
        "normal-and-50": np.append(x, 50.0),
        "relu": np.maximum(x, 0),
        "laplace": rng.laplace(size=x.size),
        "skewed": np.where(x < 0, x / 8, x * 2),
        "lognormal": np.exp(x),
        "shifted": x + 20,
    }[shape].astype(np.float32)


def measured(x: Array, low: float, high: float, scheme: Scheme) -> float:
    params = params_from_range(low, high, scheme)
    return float(np.square(dequantize(quantize(x, params), params).astype(np.float64) - x).mean())


@pytest.mark.parametrize(
    "scheme",
    [
        Scheme(dtype=QuantType.INT8, symmetric=True),
        Scheme(dtype=QuantType.UINT8, symmetric=False),
        Scheme(dtype=QuantType.INT4, symmetric=True),
        Scheme(dtype=QuantType.UINT4, symmetric=False),
        Scheme(dtype=QuantType.FLOAT8E4M3FN, symmetric=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", ["normal", "normal-and-50", "relu", "laplace", "skewed", "lognormal", "shifted"])
def test_no_other_range_is_better(scheme: Scheme, shape: str) -> None:
    x = samples(shape)
    seen = observe(x)
    found = MeanSquaredError()(seen, scheme)
    factors = np.geomspace(1, 1 / 64, 25)
    if scheme.symmetric:
        tried = [(seen.minimum * f, seen.maximum * f) for f in factors]
        tried += [(max(seen.minimum, -f), min(seen.maximum, f)) for f in factors * max(-seen.minimum, seen.maximum)]
    else:
        tried = [(seen.minimum * f, seen.maximum * g) for f in factors[::2] for g in factors]
    best = min(measured(x, low, high, scheme) for low, high in tried)
    assert measured(x, found.low, found.high, scheme) <= 1.01 * best


@pytest.mark.parametrize("dtype", [QuantType.UINT8, QuantType.UINT4])
def test_both_parts_of_the_error(dtype: QuantType) -> None:
    x = samples("laplace")
    scheme = Scheme(dtype=dtype, symmetric=False)
    seen = observe(x)
    wide = MeanSquaredError().errors(seen, scheme, Range(low=seen.minimum, high=seen.maximum))
    narrow = MeanSquaredError().errors(seen, scheme, Range(low=-3.0, high=3.0))
    assert narrow.clipping[0] > 100 * wide.clipping[0]
    assert narrow.rounding[0] < wide.rounding[0] / 3
    assert narrow.total[0] == pytest.approx(measured(x, -3.0, 3.0, scheme), rel=0.02)
    found = MeanSquaredError()(seen, scheme)
    best = MeanSquaredError().errors(seen, scheme, found).total[0]
    assert best < min(wide.total[0], narrow.total[0])


def test_one_outlier_among_many_is_clipped() -> None:
    # Least squares: with 10^6 values, t = 50 / (1 + 10^6 / (255^2 * 12)) balances the two parts, about 22.
    x = np.append(np.random.default_rng(0).standard_normal(1_000_000), 50.0).astype(np.float32)
    seen = observe(x)
    asymmetric = MeanSquaredError()(seen, Scheme(dtype=QuantType.UINT8, symmetric=False))
    symmetric = MeanSquaredError()(seen, Scheme(dtype=QuantType.INT8, symmetric=True))
    four = MeanSquaredError()(seen, Scheme(dtype=QuantType.INT4, symmetric=True))
    assert 15 < asymmetric.high < 25
    assert 5 < symmetric.high < 10
    assert 2 < four.high < 4


def test_sixteen_bits_clip_next_to_nothing() -> None:
    x = samples("normal")
    found = MeanSquaredError()(observe(x), Scheme(dtype=QuantType.UINT16, symmetric=False))
    assert found.high > 0.98 * x.max()
    assert found.low < 0.98 * x.min()
