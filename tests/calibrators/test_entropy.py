"""The found thresholds equal those of a slow search that follows the definition window by window."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnxq.calibrators.entropy import THRESHOLDS, Entropy
from onnxq.numerics.histogram import observe
from onnxq.types.scheme import QuantType, Scheme

Array = npt.NDArray[Any]
SYMMETRIC = Scheme(dtype=QuantType.INT8, symmetric=True)
ASYMMETRIC = Scheme(dtype=QuantType.UINT8, symmetric=False)


def samples(shape: str) -> Array:
    rng = np.random.default_rng(5)
    x = rng.standard_normal(100_000)
    return {
        "normal-and-50": np.append(x, 50.0),
        "relu": np.maximum(x, 0),
        "relu-and-50": np.maximum(np.append(x, 50.0), 0),
        "sparse-relu": np.maximum(x - 1.5, 0),
        "laplace": rng.laplace(size=x.size),
        "skewed": np.where(x < 0, x / 8, x * 2),
        "negative": -np.abs(x),
    }[shape].astype(np.float32)


def divergence(counts: Array, start: int, end: int, levels: int) -> float:
    """One window by the definition in `onnxq.calibrators.entropy`, bin by bin."""
    width = end - start
    inside = counts[start:end].astype(float)
    p = inside.copy()
    p[0] += counts[:start].sum()
    p[-1] += counts[end:].sum()
    level_of = np.arange(width) * min(levels, width) // width
    mass = np.bincount(level_of, weights=inside)
    mass[mass == 0] = 0.5
    filled = np.bincount(level_of, weights=p > 0)
    kept = p > 0
    q = mass[level_of[kept]] / filled[level_of[kept]] / max(inside.sum(), 0.5)
    p = p[kept] / p.sum()
    return float((p * np.log(p / q)).sum())


def slow_symmetric(x: Array, levels: int) -> float:
    magnitudes = np.abs(x.astype(np.float64))
    width = 2.0 ** (np.floor(np.log2(magnitudes.max())) - 11)
    # Negative values belong to the bin that ends at them when they lie on an edge, as in floor().
    index = np.where(x < 0, np.ceil(magnitudes / width) - 1, np.floor(magnitudes / width)).astype(int)
    counts = np.bincount(index)
    counts[0] = min(counts[0], counts[1])
    size = counts.size
    ends = np.rint(np.linspace(size, levels, THRESHOLDS)).astype(int)
    found = [divergence(counts, 0, end, levels) for end in ends]
    return float(ends[int(np.argmin(found))] * width)


def slow_asymmetric(x: Array, levels: int) -> tuple[float, float]:
    values = x.astype(np.float64)
    width = 2.0 ** (np.floor(np.log2(np.abs(values).max())) - 11)
    index = np.floor(values / width).astype(int)
    lefts, rights = max(0, -int(index.min())), max(0, int(index.max()) + 1)
    counts = np.bincount(index + lefts, minlength=lefts + rights)
    if rights > 1:
        counts[lefts] = min(counts[lefts], counts[lefts + 1])
    if lefts > 1:
        counts[lefts - 1] = min(counts[lefts - 1], counts[lefts - 2])

    def search(windows: list[tuple[int, int]]) -> tuple[int, int]:
        found = [divergence(counts, lefts - left, lefts + right, levels) for left, right in windows]
        return windows[int(np.argmin(found))]

    def steps(most: int, least: int, number: int) -> list[int]:
        return np.rint(np.linspace(most, least, min(number, most - least + 1))).astype(int).tolist()

    reach = steps(max(lefts, rights), max(levels // 2, levels - min(lefts, rights)), THRESHOLDS)
    left, right = search([(min(t, lefts), min(t, rights)) for t in reach])
    left, right = search([(end, right) for end in steps(lefts, min(max(levels - right, 0), lefts), 256)])
    left, right = search([(left, end) for end in steps(rights, min(max(levels - left, 0), rights), 256)])
    return -left * width, right * width


@pytest.mark.parametrize("shape", ["normal-and-50", "relu-and-50", "laplace", "negative"])
def test_symmetric_threshold_equals_the_slow_search(shape: str) -> None:
    x = samples(shape)
    found = Entropy()(observe(x), SYMMETRIC)
    expected = slow_symmetric(x, 128)
    assert found.low == max(-expected, x.min())
    assert found.high == min(expected, x.max())


@pytest.mark.parametrize("shape", ["normal-and-50", "relu", "skewed"])
def test_asymmetric_thresholds_equal_the_slow_search(shape: str) -> None:
    x = samples(shape)
    found = Entropy()(observe(x), ASYMMETRIC)
    low, high = slow_asymmetric(x, 256)
    assert found.low == max(low, x.min())
    assert found.high == min(high, x.max())


@pytest.mark.parametrize("scheme", [SYMMETRIC, ASYMMETRIC], ids=str)
@pytest.mark.parametrize("outliers", [[50.0], [50.0, -50.0], [-300.0], [500.0], [1e4]])
def test_a_lone_outlier_is_clipped(scheme: Scheme, outliers: list[float]) -> None:
    x = np.append(samples("laplace") / 2, outliers).astype(np.float32)
    found = Entropy()(observe(x), scheme)
    assert 2 < max(-found.low, found.high) < 8


@pytest.mark.parametrize("scheme", [SYMMETRIC, ASYMMETRIC], ids=str)
@pytest.mark.parametrize("shape", ["relu", "sparse-relu"])
def test_the_spike_of_a_relu_is_no_reason_to_clip(scheme: Scheme, shape: str) -> None:
    x = samples(shape)
    found = Entropy()(observe(x), scheme)
    assert found.high > 0.6 * x.max()


@pytest.mark.parametrize("scheme", [SYMMETRIC, ASYMMETRIC], ids=str)
@pytest.mark.parametrize("sign", [1, -1])
def test_values_far_from_zero_are_not_all_clipped(scheme: Scheme, sign: int) -> None:
    x = sign * np.random.default_rng(0).uniform(0.65, 2.7, 800).astype(np.float32)
    found = Entropy()(observe(x), scheme)
    assert found.low <= np.median(x) <= found.high


def test_more_levels_than_bins_leave_nothing_to_search() -> None:
    x = samples("laplace")
    found = Entropy()(observe(x), Scheme(dtype=QuantType.UINT16, symmetric=False))
    assert (found.low, found.high) == (x.min(), x.max())


def test_fewer_levels_clip_more() -> None:
    seen = observe(samples("laplace"))
    eight, four = (Entropy()(seen, Scheme(dtype=t, symmetric=True)).high for t in (QuantType.INT8, QuantType.INT4))
    assert four < eight
