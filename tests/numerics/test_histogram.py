"""Statistics depend on the multiset of samples alone, and agree with a slow reading of their definition."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxq.errors import CalibrationError
from onnxq.numerics.density import distribution
from onnxq.numerics.grid import MAX_BINS
from onnxq.numerics.histogram import Accumulator, empty, merge, observe
from onnxq.types.statistics import Histogram, TensorStatistics
from tests.support.statistics import identity

Array = npt.NDArray[Any]


def dense(histogram: Histogram | None) -> dict[int, int]:
    if histogram is None:
        return {}
    return {histogram.first + i: int(n) for i, n in enumerate(histogram.counts) if n}


# Values as networks and their masks have them, and the strangest that there are.
plain = st.floats(-8, 8, width=32)
strange = st.sampled_from(
    [
        0.0,
        -0.0,
        1e-45,
        -1e-45,
        1.1754944e-38,
        3.4028235e38,
        -3.4028235e38,
        -1e4,
        -1e9,
        65504.0,
        50.0,
        1.0,
        5e-324,
        -7e-9,
    ]
)
anything = st.floats(width=32, allow_nan=True, allow_infinity=True)
values = st.one_of(plain, plain, strange, anything)
samples = st.lists(st.lists(values, min_size=3, max_size=3), min_size=1, max_size=12)


def as_array(rows: Sequence[Sequence[float]], dtype: type = np.float32) -> Array:
    return np.array(rows, np.float64).astype(dtype).reshape(len(rows), -1)


@settings(max_examples=80, deadline=None)
@given(samples, st.sampled_from([np.float32, np.float64]), st.randoms(use_true_random=False))
def test_split_order_and_merge_tree_do_not_matter(rows: list[list[float]], dtype: type, random: Any) -> None:
    array = as_array(rows, dtype)
    whole = observe(array, batch_axis=0, channel_axis=1)

    shuffled = list(range(len(rows)))
    random.shuffle(shuffled)
    parts = []
    while shuffled:
        size = random.randint(1, len(shuffled))
        parts.append(observe(array[shuffled[:size]], batch_axis=0, channel_axis=1))
        del shuffled[:size]
    parts.insert(random.randint(0, len(parts)), empty())
    while len(parts) > 1:
        parts.append(merge(parts.pop(random.randrange(len(parts))), parts.pop(random.randrange(len(parts)))))
    assert identity(parts[0]) == identity(whole)

    accumulator = Accumulator(channel_axis=1)
    order = list(range(len(rows)))
    random.shuffle(order)
    for index in order:
        accumulator.update(array[index : index + 1], batch_axis=0)
        if random.random() < 0.3:
            accumulator.result()
    assert identity(accumulator.result()) == identity(whole)


@settings(max_examples=80, deadline=None)
@given(samples, st.randoms(use_true_random=False))
def test_extremes_alone_are_the_same_without_histograms(rows: list[list[float]], random: Any) -> None:
    array = as_array(rows)
    whole = observe(array, batch_axis=0)
    extremes, other = Accumulator(counted=False), Accumulator(counted=False)
    for row in array:
        (extremes if random.random() < 0.5 else other).update(row[None], batch_axis=0)
    extremes.add(other.result())
    seen = extremes.result()
    assert identity(replace(seen, histogram=None, clusters=())) == identity(replace(whole, histogram=None, clusters=()))
    for mine, theirs in zip(seen.clusters, whole.clusters, strict=True):
        assert identity(replace(mine, histogram=None)) == identity(replace(theirs, histogram=None))
        assert mine.histogram is None or identity(mine.histogram) == identity(theirs.histogram)


def test_what_extremes_alone_cannot_tell_is_refused() -> None:
    extremes = Accumulator(counted=False)
    extremes.update(np.random.default_rng(0).standard_normal(1000))
    with pytest.raises(CalibrationError, match="only extremes were observed"):
        distribution(extremes.result())


@settings(max_examples=60, deadline=None)
@given(samples)
def test_agrees_with_the_definition(rows: list[list[float]]) -> None:
    array = as_array(rows)
    seen = observe(array, batch_axis=0)
    flat = [float(value) for value in array.reshape(-1)]
    finite = [value for value in flat if math.isfinite(value)]
    assert seen.nan == sum(math.isnan(value) for value in flat)
    assert seen.pos_inf == flat.count(math.inf)
    assert seen.neg_inf == flat.count(-math.inf)
    assert seen.zeros == finite.count(0.0)
    assert seen.samples == len(rows)
    masked = sum(sentinel.count for sentinel in seen.sentinels)
    assert seen.count + masked == len(finite)

    bound = max((-seen.minimum, seen.maximum))
    body = [value for value in finite if abs(value) <= bound] if seen.count else []
    assert seen.count == len(body)
    if not body:
        assert seen.histogram is None
        return
    assert (seen.minimum, seen.maximum) == (min(body), max(body))
    assert seen.histogram is not None
    width = Fraction(2) ** seen.histogram.exponent
    assert dense(seen.histogram) == Counter(math.floor(Fraction(value) / width) for value in body)
    assert seen.histogram.counts.size <= MAX_BINS
    assert seen.histogram.counts[0] > 0 < seen.histogram.counts[-1]
    if bound:
        assert MAX_BINS // 4 <= bound / float(width) < MAX_BINS // 2 or float(width) == 2.0**-1000

    inside = [[v for v in map(float, row) if math.isfinite(v) and abs(v) <= bound] for row in array]
    inside = [row for row in inside if row]
    assert seen.mean_minimum == float(sum(Fraction(min(row)) for row in inside) / len(inside))
    assert seen.mean_maximum == float(sum(Fraction(max(row)) for row in inside) / len(inside))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-(2.0**90), 2.0**90, width=32), min_size=1, max_size=60))
def test_moments(flat: list[float]) -> None:
    seen = observe(np.array(flat, np.float32))
    kept = [value for value in flat if -max(-seen.minimum, seen.maximum) <= value <= max(-seen.minimum, seen.maximum)]
    mass, total, squares = distribution(seen).moments().sum(axis=1)
    largest = max(-seen.minimum, seen.maximum)
    assert mass == len(kept)
    assert abs(total / mass - float(sum(map(Fraction, kept)) / len(kept))) <= largest / 2000
    assert abs(squares / mass - float(sum(Fraction(each) ** 2 for each in kept) / len(kept))) <= largest**2 / 1000


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e5, 1e30])
def test_large_arrays_go_the_fast_way_to_the_same_place(scale: float) -> None:
    rng = np.random.default_rng(3)
    array = (rng.standard_normal((5, 70_001)) * scale).astype(np.float32)
    whole = observe(array, batch_axis=0)
    histogram = whole.histogram
    assert histogram is not None
    expected = Counter(
        np.floor(np.ldexp(array.astype(np.float64), -histogram.exponent)).reshape(-1).astype(int).tolist()
    )
    assert dense(histogram) == expected
    accumulator = Accumulator()
    for row in array[::-1]:
        accumulator.update(row[None], batch_axis=0)
    assert identity(accumulator.result()) == identity(whole)
    assert whole.mean_minimum == math.fsum(array.min(axis=1).tolist()) / 5
    moments = distribution(whole).moments().sum(axis=1) / array.size
    wide = array.astype(np.float64)
    np.testing.assert_allclose(moments[1], wide.mean(), atol=1e-5 * scale)
    np.testing.assert_allclose(moments[2], np.square(wide).mean(), rtol=1e-5)


@pytest.mark.parametrize(
    "dtype", [np.float16, np.float64, ml_dtypes.bfloat16, np.int8, np.uint8, np.int32, np.int64, bool]
)
def test_types_agree_with_their_values_as_float64(dtype: Any) -> None:
    array = (np.random.default_rng(0).standard_normal((3, 50)) * 20).astype(dtype)
    assert identity(observe(array, batch_axis=0)) == identity(observe(array.astype(np.float64), batch_axis=0))


def test_batch_axis_anywhere_and_shapes() -> None:
    rng = np.random.default_rng(0)
    array = rng.standard_normal((4, 3, 5)).astype(np.float32)
    moved = observe(np.moveaxis(array, 0, 2), batch_axis=2)
    first = observe(array, batch_axis=0)
    assert first.shapes == ((1, 1), (3, 3), (5, 5))
    assert moved.shapes == ((3, 3), (5, 5), (1, 1))
    assert moved.mean_minimum == first.mean_minimum
    longer = merge(first, observe(rng.standard_normal((2, 3, 9)), batch_axis=0))
    assert longer.shapes == ((1, 1), (3, 3), (5, 9))
    ranks = merge(longer, observe(np.ones(3)))
    assert ranks.shapes is None
    assert merge(ranks, first).shapes is None


def test_nothing_and_almost_nothing() -> None:
    nothing = observe(np.zeros((0, 3), np.float32), batch_axis=0)
    assert identity(nothing) == identity(empty())
    hollow = observe(np.zeros((2, 0), np.float32), batch_axis=0)
    assert (hollow.samples, hollow.count, hollow.histogram) == (2, 0, None)
    scalar = observe(np.array(-3.0, np.float32))
    assert (scalar.minimum, scalar.maximum, scalar.count) == (-3.0, -3.0, 1)
    zero = observe(np.array([-0.0, 0.0], np.float32))
    assert (zero.minimum.hex(), zero.maximum.hex(), zero.zeros) == ("0x0.0p+0", "0x0.0p+0", 2)


def test_only_numbers_and_axes_that_exist() -> None:
    with pytest.raises(CalibrationError, match="only numbers"):
        observe(np.array(["a"]))
    with pytest.raises(CalibrationError, match="no axis 2"):
        observe(np.ones((2, 2)), batch_axis=2)
    with pytest.raises(CalibrationError, match="no axis 5"):
        observe(np.ones((2, 2)), channel_axis=5)


def test_channels() -> None:
    array = np.random.default_rng(0).standard_normal((6, 3, 4)).astype(np.float32)
    array[0, 1, :] = [np.nan, np.inf, -np.inf, 2.0]
    array[:, 2] = np.nan
    whole = observe(array, batch_axis=0, channel_axis=1).channels
    halves = merge(
        observe(array[:2], batch_axis=0, channel_axis=1), observe(array[2:], batch_axis=0, channel_axis=1)
    ).channels
    assert whole is not None
    assert halves is not None
    finite = [array[:, c][np.isfinite(array[:, c])] for c in range(3)]
    assert whole.count.tolist() == [24, 21, 0]
    assert whole.minimum.tolist() == [float(finite[0].min()), float(finite[1].min()), 0.0]
    assert whole.maximum.tolist() == [float(finite[0].max()), float(finite[1].max()), 0.0]
    np.testing.assert_allclose(whole.sum_squares, [np.square(f.astype(np.float64)).sum() for f in finite], rtol=1e-12)
    np.testing.assert_allclose(halves.sum_squares, whole.sum_squares, rtol=1e-12)
    assert identity(halves.minimum) == identity(whole.minimum)
    other = observe(np.ones((2, 4, 4)), batch_axis=0, channel_axis=1)
    assert merge(observe(array, batch_axis=0, channel_axis=1), other).channels is None


def test_an_accumulator_goes_on_from_what_another_saw() -> None:
    array = np.random.default_rng(0).standard_normal((4, 1000)).astype(np.float32)
    resumed = Accumulator()
    resumed.add(observe(array[:2], batch_axis=0))
    resumed.update(array[2:], batch_axis=0)
    assert identity(resumed.result()) == identity(observe(array, batch_axis=0))


@pytest.mark.parametrize(("shape", "axis"), [((40, 7), -1), ((5, 7, 3, 4), 1), ((3, 9, 7), 2)])
def test_products_of_channels_are_the_gram_matrix(shape: tuple[int, ...], axis: int) -> None:
    array = np.random.default_rng(3).standard_normal(shape)
    array[(0,) * len(shape)] = np.nan
    accumulator = Accumulator(channel_axis=axis, products=True)
    for sample in array:
        accumulator.update(sample[None], batch_axis=0)
    channels = accumulator.result().channels
    places = np.nan_to_num(np.moveaxis(array, axis, -1).reshape(-1, 7))
    np.testing.assert_allclose(channels.products, places.T @ places, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(np.diagonal(channels.products), channels.sum_squares, rtol=1e-12)
    halves = (observe_half(half, axis) for half in np.array_split(array, 2))
    np.testing.assert_allclose(merge(*halves).channels.products, channels.products, rtol=1e-12, atol=1e-12)


def observe_half(array: np.ndarray, axis: int) -> TensorStatistics:
    accumulator = Accumulator(channel_axis=axis, products=True)
    accumulator.update(array, batch_axis=0)
    return accumulator.result()
