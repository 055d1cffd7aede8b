"""The compiled kernel counts what numpy counts, bit for bit, and is taken where it is there and pays."""

import importlib.util
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnxq.numerics import grid, sample_clusters
from onnxq.numerics.histogram import Accumulator, observe
from tests.support.statistics import identity

RNG = np.random.default_rng(5)


@pytest.fixture
def choice(monkeypatch):
    """Forget what this process has chosen."""
    fresh = grid._KernelChoice()
    monkeypatch.setattr(grid, "_choice", fresh)
    monkeypatch.setattr(sample_clusters, "_LARGE", 1)
    return fresh


@pytest.fixture
def calls(choice):
    """Count by the kernel from now on; holds how many values each call was given, and how many it took."""
    choice.load()
    compiled, found = choice.kernel, []
    assert compiled is not None

    def kernel(values, *rest):
        result = compiled(values, *rest)
        found.append((values.size, result[0]))
        return result

    choice.kernel = kernel
    return found


def by_numpy(monkeypatch, arrays):
    with monkeypatch.context() as patched:
        patched.setattr(grid, "PAYS", np.inf)
        patched.setattr(grid, "_choice", grid._KernelChoice())
        return identity(seen(arrays))


def seen(arrays):
    accumulator = Accumulator()
    for array in arrays:
        accumulator.update(array, batch_axis=0)
    return accumulator.result()


numbers = st.one_of(
    st.floats(-8, 8, width=32),
    st.sampled_from([0.0, -0.0, 1e-45, -1e-45, -1e-30, 4096.0, -8.0, 65504.0, -1e4, 3.4028235e38]),
    st.floats(width=32),
)
batches = st.lists(st.lists(st.lists(numbers, min_size=4, max_size=4), min_size=1, max_size=3), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches)
def test_the_kernel_counts_what_numpy_counts(calls, monkeypatch, batches):
    arrays = [np.array(batch, np.float32) for batch in batches]
    assert identity(seen(arrays)) == by_numpy(monkeypatch, arrays)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("size", [8191, 8192, 50_001])
def test_large_samples_agree_with_the_definition(calls, size, relu):
    array = RNG.standard_normal((2, size)).astype(np.float32)
    array = np.maximum(array, 0) if relu else array
    array.flags.writeable = False  # as arrays of the runtime may be
    found = observe(array, batch_axis=0)
    histogram = found.histogram
    bins = np.floor(np.ldexp(array.astype(np.float64), -histogram.exponent)).astype(int)
    expected = Counter(bins.reshape(-1).tolist())
    assert {histogram.first + i: n for i, n in enumerate(histogram.counts.tolist()) if n} == expected
    assert (found.minimum, found.maximum, found.zeros) == (array.min(), array.max(), np.sum(array == 0))
    assert calls == [(size, size)] * 2


def test_values_beyond_the_bins_are_counted_after_the_bins_have_grown(calls, monkeypatch):
    first, second = (RNG.standard_normal((1, 40_000)).astype(np.float32) for _ in range(2))
    second[0, 20_000] = 100.0
    second[0, 39_000] = -5000.0  # whose bins are too wide for float32 arithmetic: numpy takes the rest
    assert identity(seen([first, second])) == by_numpy(monkeypatch, [first, second])
    assert calls[0] == (40_000, 40_000)
    assert any(0 < done < size for size, done in calls[1:])


@pytest.mark.parametrize("strange", [np.nan, np.inf, -np.inf, np.finfo(np.float32).min])
def test_what_belongs_to_no_bin_leaves_nothing_half_counted(calls, monkeypatch, strange):
    first, second = (RNG.standard_normal((1, 30_000)).astype(np.float32) for _ in range(2))
    second[0, 25_000] = strange
    arrays = [first, first, second, first]  # the second is counted in place when the third comes
    assert identity(seen(arrays)) == by_numpy(monkeypatch, arrays)
    assert (30_000, 24_576) in calls


def test_float64_is_left_to_numpy(calls):
    observe(RNG.standard_normal((1, 40_000)), batch_axis=0)
    assert not calls


def test_the_kernel_is_loaded_once_it_pays(choice, monkeypatch):
    monkeypatch.setattr(grid, "PAYS", 1000)
    assert grid.kernel(600) is None
    assert grid.kernel() is None
    assert grid.kernel(600) is not None


@pytest.mark.parametrize("how", ["lacking", "broken"])
def test_numpy_counts_where_there_is_no_kernel(choice, monkeypatch, how):
    monkeypatch.setattr(grid, "PAYS", 0)
    if how == "lacking":
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    else:
        monkeypatch.setitem(sys.modules, "onnxq.numerics._compiled_count", None)
    assert grid.kernel(1) is None
    assert choice.lacking
    array = RNG.standard_normal((1, 40_000)).astype(np.float32)
    assert observe(array, batch_axis=0).count == 40_000
