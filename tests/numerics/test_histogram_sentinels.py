"""Masks are recognised by their isolation; outliers, however far, are not masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnxq.numerics.histogram import Accumulator, merge, observe

Array = npt.NDArray[Any]

F32_MIN = float(np.finfo(np.float32).min)


def scores(seed: int = 0, scale: float = 3.0) -> Array:
    return (np.random.default_rng(seed).standard_normal((8, 16, 16)) * scale).astype(np.float32)


def masked(values: Array, mask: float, share: float = 0.3) -> tuple[Array, npt.NDArray[np.bool_]]:
    where = np.random.default_rng(1).random(values.shape) < share
    return (values + np.where(where, np.float32(mask), np.float32(0))).astype(np.float32), where


@pytest.mark.parametrize("mask", [-1e4, -1e9, -1e30, -65504.0, F32_MIN, 1e9])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.9])
def test_a_mask_added_to_scores_stays_out_of_the_range(mask: float, share: float) -> None:
    values = scores()
    array, where = masked(values, mask, share)
    seen = observe(array, batch_axis=0)
    assert (seen.minimum, seen.maximum) == (values[~where].min(), values[~where].max())
    assert seen.count == int((~where).sum())
    assert [sentinel.count for sentinel in seen.sentinels] == [int(where.sum())]
    assert (seen.sentinels[0].minimum, seen.sentinels[0].maximum) == (array[where].min(), array[where].max())
    samples = [row[~hidden] for row, hidden in zip(array, where, strict=True)]
    np.testing.assert_allclose(seen.mean_minimum, np.mean([row.min() for row in samples]), rtol=1e-6)
    np.testing.assert_allclose(seen.mean_maximum, np.mean([row.max() for row in samples]), rtol=1e-6)


@pytest.mark.parametrize("mask", [-1e4, F32_MIN])
def test_the_body_keeps_its_resolution_whether_the_mask_comes_first_or_last(mask: float) -> None:
    body = scores()
    hidden = np.full((1, 16, 16), mask, np.float32)
    alone = observe(body, batch_axis=0).histogram
    assert alone is not None
    first = merge(observe(hidden, batch_axis=0), observe(body, batch_axis=0)).histogram
    accumulator = Accumulator()
    for array in (body[:4], hidden, body[4:]):
        accumulator.update(array, batch_axis=0)
    between = accumulator.result().histogram
    for found in (first, between):
        assert found is not None
        assert (found.exponent, found.first) == (alone.exponent, alone.first)
        np.testing.assert_array_equal(found.counts, alone.counts)


def test_infinite_masks_are_counted_apart() -> None:
    values = scores()
    array, where = masked(values, -np.inf)
    seen = observe(array, batch_axis=0)
    assert seen.neg_inf == int(where.sum())
    assert seen.sentinels == ()
    assert (seen.minimum, seen.maximum) == (values[~where].min(), values[~where].max())


def test_masks_that_were_added_twice_and_masks_of_two_kinds() -> None:
    values = scores()
    array = values.copy()
    array[0, :8], array[0, 8:], array[1] = -1e4, -2e4, F32_MIN
    seen = observe(array, batch_axis=0)
    assert [(each.minimum, each.count) for each in seen.sentinels] == [(F32_MIN, 256), (-2e4, 256)]
    assert (seen.minimum, seen.maximum) == (values[2:].min(), values[2:].max())
    assert len(seen.clusters[-1].histogram.counts) == 1


@pytest.mark.parametrize(
    "outliers",
    [[50.0], [1e4], [-2000.0], [2622.0, 1547.0, 802.0, 477.0], [300.0] * 500, [5e5, 7e5]],
    ids=["one-50", "one-1e4", "one-2000", "massive-activations", "spike-at-300", "two-large"],
)
def test_outliers_are_no_masks(outliers: list[float]) -> None:
    values = np.random.default_rng(0).standard_normal(50_000)
    array = np.append(values, outliers).astype(np.float32)
    seen = observe(array)
    assert seen.sentinels == ()
    assert (seen.minimum, seen.maximum) == (array.min(), array.max())
    assert seen.count == array.size


def test_one_outlier_in_a_small_tensor_is_no_mask() -> None:
    array = np.random.default_rng(0).standard_normal(200).astype(np.float32)
    array[7] = 3000.0
    assert observe(array).sentinels == ()


def test_a_mask_by_itself_is_a_tensor_of_two_values() -> None:
    array = np.where(np.arange(4096) % 3 == 0, np.float32(-1e4), np.float32(0))
    seen = observe(array)
    assert seen.sentinels == ()
    assert (seen.minimum, seen.maximum, seen.zeros) == (-1e4, 0.0, 2730)


def test_coordinates_beside_scores_are_no_masks() -> None:
    rng = np.random.default_rng(0)
    array = np.concatenate([rng.uniform(1000, 4000, 40_000), rng.random(10_000) * 1e-3]).astype(np.float32)
    seen = observe(array)
    assert seen.sentinels == ()
    assert seen.maximum == array.max()


def test_dust_below_large_values_is_no_body() -> None:
    array = np.full(10_000, 5000.0, np.float32)
    array[:3] = [1e-3, 2e-3, 3e-3]
    seen = observe(array)
    assert seen.sentinels == ()
    assert (seen.minimum, seen.maximum) == (np.float32(1e-3), 5000.0)
