from __future__ import annotations

import numpy as np
import pytest
from onnxq.calibrators.percentile import Percentile
from onnxq.numerics.histogram import observe
from onnxq.types.scheme import QuantType, Scheme

SCHEME = Scheme(dtype=QuantType.UINT8, symmetric=False)


@pytest.mark.parametrize("percent", [90, 99, 99.9, 99.99, 99.9999])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_agrees_with_numpy_to_a_bin(percent: float, scale: float) -> None:
    x = (np.random.default_rng(0).standard_normal(300_000) * scale).astype(np.float32)
    seen = observe(x)
    assert seen.histogram is not None
    found = Percentile(percentile=percent)(seen, SCHEME)
    # A bin, and far out, where single values lie bins apart, the gap between neighbours.
    low = np.percentile(x, [100 - percent, 100 - percent], method="lower"), np.sort(x)
    width = 2.0**seen.histogram.exponent
    for value, rank in ((found.low, (100 - percent) / 100), (found.high, percent / 100)):
        place = rank * (x.size - 1)
        nearest = low[1][[max(int(place) - 1, 0), min(int(place) + 2, x.size - 1)]]
        assert nearest[0] - width <= value <= nearest[1] + width


def test_all_of_it() -> None:
    x = np.array([-3.25, 1.0, 2.0, 7.125], np.float32)
    found = Percentile(percentile=100)(observe(x), SCHEME)
    assert (found.low, found.high) == (-3.25, 7.125)


def test_zeros_of_a_relu_are_one_point() -> None:
    x = np.maximum(np.random.default_rng(0).standard_normal(10_000), 0).astype(np.float32)
    assert Percentile(percentile=99)(observe(x), SCHEME).low == 0.0
