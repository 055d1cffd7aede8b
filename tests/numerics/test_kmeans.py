import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnxq.errors import RecipeError
from onnxq.numerics.codebook import codebook_dequantize, codebook_quantize
from onnxq.numerics.kmeans import kmeans_1d
from onnxq.types.scheme import PerBlock, PerChannel, PerTensor


def _error(x, w, centroids):
    return float(np.sum(w * np.min((x[:, None] - centroids) ** 2, axis=1)))


def _least(x, w, count):
    """Try all ways to cut the sorted values into at most `count` runs."""
    order = np.argsort(x)
    x, w = x[order].astype(np.float64), w[order].astype(np.float64)
    least = np.inf
    for cuts in itertools.combinations_with_replacement(range(len(x) + 1), count - 1):
        total = 0.0
        for begin, end in itertools.pairwise([0, *cuts, len(x)]):
            part, weight = x[begin:end], w[begin:end]
            if weight.sum() > 0:
                total += np.sum(weight * (part - np.sum(weight * part) / weight.sum()) ** 2)
        least = min(least, total)
    return least


@settings(max_examples=60, deadline=None)
@given(
    x=hnp.arrays(np.float32, st.integers(1, 9), elements=st.floats(-100, 100, width=32) | st.integers(-3, 3)),
    count=st.integers(1, 4),
    data=st.data(),
)
def test_the_error_is_the_least_of_all_partitions(x, count, data):
    w = data.draw(hnp.arrays(np.float64, x.shape, elements=st.sampled_from([0.0, 1.0, 2.5])))
    centroids = kmeans_1d(x[None], count, weights=w[None])[0]
    assert (np.diff(centroids) >= 0).all()
    assert _error(x, w, centroids) == pytest.approx(_least(x, w, count), rel=1e-9, abs=1e-9)


def test_known_clusters_are_found():
    x = np.float32([[5, 1, 9.5, 1.5, 5.5, 10.5]])
    assert kmeans_1d(x, 3).tolist() == [[1.25, 5.25, 10]]


def test_rows_do_not_see_each_other():
    x = np.random.default_rng(0).normal(size=(7, 40)) * np.arange(1, 8)[:, None] ** 3
    together = kmeans_1d(x, 5)
    for row, expected in zip(x, together, strict=True):
        np.testing.assert_allclose(kmeans_1d(row[None], 5)[0], expected, rtol=1e-12)


def test_fewer_values_than_centroids_are_kept_exactly():
    assert kmeans_1d(np.float32([[2, -1, 2]]), 4).tolist() == [[-1, 2, 2, 2]]
    assert kmeans_1d(np.zeros((1, 0), np.float32), 2).tolist() == [[0, 0]]


def test_far_outliers_and_offsets_lose_no_digits():
    x = np.concatenate([np.float32(1e6) + np.float32([0, 1, 2, 3]), np.float32([-1e6])])[None]
    found = kmeans_1d(x, 3)[0]
    np.testing.assert_allclose(found, [-1e6, 1e6 + 0.5, 1e6 + 2.5], rtol=1e-12)


class TestCodebook:
    @pytest.mark.parametrize(
        ("granularity", "shape"),
        [
            (PerTensor(), (8,)),
            (PerChannel(axis=1), (14, 8)),
            (PerChannel(axis=0), (6, 8)),
            (PerBlock(axis=1, size=5), (6, 3, 8)),
            (PerBlock(axis=0, size=4), (2, 14, 8)),
        ],
    )
    def test_each_group_has_its_own_table(self, granularity, shape):
        x = np.random.default_rng(1).normal(size=(6, 14)).astype(np.float32)
        codes, codebook = codebook_quantize(x, 3, granularity)
        values = codebook_dequantize(codes, codebook)
        assert codes.dtype == np.uint8
        assert codes.max() < 8
        assert codebook.table.shape == shape
        if isinstance(granularity, PerBlock) and granularity.axis == 1:
            part = x[2, 10:14]  # the short last block: its padding must not draw a centroid
            np.testing.assert_array_equal(values[2, 10:14], part)
        np.testing.assert_allclose(np.sum((values - x) ** 2), _partition_error(x, granularity), rtol=1e-5, atol=1e-12)

    def test_values_get_the_nearest_entry(self):
        x = np.random.default_rng(2).standard_t(3, size=500).astype(np.float32)
        codes, codebook = codebook_quantize(x, 4, PerTensor())
        np.testing.assert_array_equal(codes, np.abs(x[:, None] - codebook.table).argmin(axis=1))

    def test_it_beats_any_uniform_grid_on_a_bell_curve(self):
        x = np.random.default_rng(3).normal(size=4096).astype(np.float32)
        values = codebook_dequantize(*codebook_quantize(x, 4, PerTensor()))
        # Max 1960, table I: the best 16-level quantizer of a Gauss density has 0.009497, the best uniform one 0.01154.
        assert np.mean((values - x) ** 2) / np.var(x) == pytest.approx(0.0095, rel=0.05)

    def test_large_groups_are_near_the_optimum(self):
        x = np.random.default_rng(4).standard_t(4, size=(1, 6000))
        exact = _error(x[0], np.ones(6000), kmeans_1d(x, 16)[0])
        values = codebook_dequantize(*codebook_quantize(x, 4, PerTensor()))
        assert np.sum((values - x) ** 2) <= exact * 1.001

    def test_importance_moves_the_entries(self):
        x = np.float32([0, 1, 10, 12])
        weight = np.float32([1, 1, 1, 3])
        _, codebook = codebook_quantize(x, 1, PerTensor(), importance=weight)
        assert codebook.table.tolist() == [0.5, 11.5]

    def test_eight_bits_are_the_most(self):
        with pytest.raises(RecipeError, match="1 to 8 bits, not 9"):
            codebook_quantize(np.zeros(3), 9, PerTensor())


def _partition_error(x, granularity):
    if isinstance(granularity, PerTensor):
        groups = [x.ravel()]
    elif isinstance(granularity, PerChannel):
        groups = list(np.moveaxis(x, granularity.axis, 0))
    else:
        rows = np.moveaxis(x, granularity.axis, -1)
        groups = [row[i : i + granularity.size] for row in rows for i in range(0, len(row), granularity.size)]
    return sum(_error(g, 1, kmeans_1d(g[None], 8)[0]) for g in groups)
