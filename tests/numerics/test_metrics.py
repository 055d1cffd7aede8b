import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnxq.numerics import metrics


def test_sqnr_is_the_ratio_of_powers_in_decibel():
    # signal 1 + 4 + 9 + 16 = 30, noise 4 * 0.01 = 0.04: 10 log10(750) = 28.7506... by hand
    assert metrics.sqnr_db([1, 2, 3, 4], [1.1, 1.9, 3.1, 3.9]) == pytest.approx(28.750612633917)


@pytest.mark.parametrize("size", [1, 1000, 3 * 65536 + 7])
def test_figures_equal_numpy_in_float64(size):
    rng = np.random.default_rng(size)
    x = rng.normal(size=size).astype(np.float32)
    y = (x + rng.normal(scale=1e-3, size=size)).astype(np.float32)
    a, b = x.astype(np.float64), y.astype(np.float64)

    assert metrics.sqnr_db(x, y) == pytest.approx(10 * np.log10(np.sum(a**2) / np.sum((a - b) ** 2)), rel=1e-12)
    assert metrics.compare(x, y).noise == pytest.approx(np.sum((a - b) ** 2), rel=1e-12)
    assert metrics.compare(x, y).max_error == np.max(np.abs(a - b))


def test_error_far_below_float32_precision_is_seen():
    x = np.full(1 << 20, 1000.0, dtype=np.float32)
    y = x.copy()
    y[7] = np.nextafter(np.float32(1000), np.float32(2000))
    assert metrics.compare(x, y).noise == pytest.approx(float(y[7] - x[7]) ** 2, rel=1e-9)


@given(
    hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-100, 100, width=32)),
    st.lists(st.integers(0, 60), max_size=4),
)
def test_batches_add_up_to_the_whole(x, cuts):
    y = np.round(x * 4) / 4
    stream = metrics.ErrorSums()
    edges = sorted({0, x.size, *(cut for cut in cuts if cut < x.size)})
    for start, stop in itertools.pairwise(edges):
        stream.add(x[start:stop], y[start:stop])
    whole = metrics.compare(x, y)
    assert stream.sqnr_db == pytest.approx(whole.sqnr_db, rel=1e-9)
    assert (stream.max_abs, stream.count) == (whole.max_abs, whole.count)


def test_identical_arrays_have_no_noise():
    comparison = metrics.compare([0.5, -1.0], [0.5, -1.0])
    assert (comparison.sqnr_db, comparison.max_error) == (math.inf, 0.0)


def test_zero_signal():
    assert metrics.sqnr_db(np.zeros(3), np.zeros(3)) == math.inf
    assert metrics.sqnr_db(np.zeros(3), np.ones(3)) == -math.inf


def test_empty_arrays_agree():
    assert metrics.sqnr_db(np.zeros((0, 6)), np.zeros((0, 6))) == math.inf


@pytest.mark.parametrize(
    ("reference", "actual"),
    [
        ([1.0, np.nan], [1.0, 2.0]),
        ([1.0, 2.0], [1.0, np.nan]),
        ([1.0, 2.0], [1.0, np.inf]),
        ([1.0, np.inf], [1.0, -np.inf]),
        ([1.0, np.inf], [1.0, np.nan]),
    ],
)
def test_nan_or_infinity_on_one_side_is_counted_and_never_looks_good(reference, actual):
    comparison = metrics.compare(reference, actual)
    assert comparison.broken == 1
    assert comparison.sqnr_db == -math.inf
    assert comparison.max_error == math.inf


def test_equal_infinities_and_nans_agree_and_stay_out_of_the_sums():
    comparison = metrics.compare([1.0, np.inf, -np.inf, np.nan], [1.5, np.inf, -np.inf, np.nan])
    assert (comparison.broken, comparison.count) == (0, 1)
    assert comparison.sqnr_db == pytest.approx(10 * math.log10(1 / 0.25))


def test_other_shapes_cannot_be_compared():
    comparison = metrics.compare(np.ones((2, 3)), np.ones((2, 4)))
    assert comparison.broken == 8
    assert comparison.sqnr_db == -math.inf


def test_lists_of_tensors_of_several_shapes_are_one_array():
    parts = [np.ones((2, 3)), np.zeros((2, 1)), np.full(2, 4.0)]
    assert metrics.as_array(parts).tolist() == [1, 1, 1, 1, 1, 1, 0, 0, 4, 4]
    assert metrics.as_array([parts]).tolist() == [[1, 1, 1, 1, 1, 1, 0, 0, 4, 4]]
    assert metrics.as_array([np.ones((2, 3))] * 2).shape == (2, 2, 3)
    assert metrics.as_array([{1: 2.0}, {1: 3.0}]).tolist() == [{1: 2.0}, {1: 3.0}]
    off = metrics.compare(parts, [*parts[:2], np.full(2, 5.0)])
    assert (off.count, off.noise, off.signal) == (10, 2.0, 38.0)


def test_integers_and_booleans_do_not_wrap_around():
    assert metrics.compare(np.array([0], np.uint8), np.array([255], np.uint8)).max_error == 255
    assert metrics.compare(np.array([True]), np.array([False])).max_error == 1


def test_agreement_counts_positions():
    x = np.array([[[1, 2], [3, 1]], [[0, 1], [1, 0]]])
    y = np.array([[[1, 2], [1, 3]], [[0, 1], [1, 0]]])
    assert metrics.argmax_agreement(x, y) == (3, 4)


@pytest.mark.parametrize("shape", [(), (4,), (4, 1), (4, 0)])
def test_no_agreement_without_classes(shape):
    assert metrics.argmax_agreement(np.ones(shape), np.ones(shape)) is None
