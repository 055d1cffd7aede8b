"""minmax and moving-average: exact whatever the batches."""

from __future__ import annotations

import numpy as np
import pytest
from onnxq.calibrators.minmax import MinMax
from onnxq.calibrators.moving_average import MovingAverage
from onnxq.numerics.histogram import merge, observe
from onnxq.types.scheme import QuantType, Scheme

SCHEME = Scheme(dtype=QuantType.UINT8, symmetric=False)


@pytest.mark.parametrize("sizes", [(16,), (3, 5, 8), (1,) * 16])
def test_extremes_and_their_means_do_not_know_of_batches(sizes: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal((16, 3, 7)).astype(np.float32)
    seen = observe(x[: sizes[0]], batch_axis=0)
    start = sizes[0]
    for size in sizes[1:]:
        seen = merge(seen, observe(x[start : start + size], batch_axis=0))
        start += size
    exact = MinMax()(seen, SCHEME)
    assert (exact.low, exact.high) == (x.min(), x.max())
    mean = MovingAverage()(seen, SCHEME)
    assert mean.low == pytest.approx(x.min(axis=(1, 2)).astype(np.float64).mean(), rel=1e-15)
    assert mean.high == pytest.approx(x.max(axis=(1, 2)).astype(np.float64).mean(), rel=1e-15)


def test_samples_of_other_lengths_weigh_the_same() -> None:
    long, short = np.linspace(-1, 4, 1000, dtype=np.float32), np.linspace(-3, 2, 10, dtype=np.float32)
    mean = MovingAverage()(merge(observe(long), observe(short)), SCHEME)
    assert (mean.low, mean.high) == (-2.0, 3.0)
