"""Exact k-means in one dimension, by dynamic programming over sorted values.

An optimal cluster of numbers is a run of their sorted sequence. With D_m(j) the least error of the first j values in m
clusters, and c(i, j) the error of the values i .. j-1 in one,

    D_m(j) = min_i D_(m-1)(i) + c(i, j),
    c(i, j) = S_2(i, j) - S_1(i, j)^2 / S_0(i, j),  S_p(i, j) = sum of w x^p over i .. j-1, from prefix sums

(Wang, Song 2011, Ckmeans.1d.dp, The R Journal 3/2). The best i does not decrease as j grows, so that the one of a
middle j bounds those of its neighbours: by divide and conquer a D_m takes O(n log n) (Groenlund et al. 2017, Fast Exact
k-Means, k-Medians and Bregman Divergence Clustering in 1D, section 3). Here one level of the division is one numpy
operation, for many rows of numbers at a time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


def kmeans_1d(values: npt.NDArray[Any], count: int, *, weights: npt.NDArray[Any] | None = None) -> Float64:
    """Return the `count` centroids of least squared error for each row of `values`.

    Args:
        values: (rows, n), finite.
        count: at least 1.
        weights: (rows, n), >= 0: how much each squared error counts; None for 1. Values of weight 0 are left out.

    Returns:
        (rows, count) float64, ascending; where a row has fewer distinct values, its largest centroid repeats.
    """
    sums = _prefix_sums(values, weights)
    size = sums.zeroth.shape[1]
    row, j = np.arange(len(values))[:, None], np.arange(size)
    error = _cost(sums, row, np.zeros_like(j), j)
    starts = [np.zeros(error.shape, np.int32)]  # of the last cluster, for each number of values
    for _ in range(1, min(count, size - 1)):
        error, start = _one_more_cluster(error, sums)
        starts.append(start)
    return _centroids(starts, sums, count)


class _PrefixSums(NamedTuple):
    """Prefix sums of weight * (value - origin)^p in sorted order, (rows, n + 1), and the origins, (rows, 1)."""

    zeroth: Float64
    first: Float64
    second: Float64
    origin: Float64


def _prefix_sums(values: npt.NDArray[Any], weights: npt.NDArray[Any] | None) -> _PrefixSums:
    place = np.asarray(values, np.float64)
    weight = np.ones_like(place) if weights is None else np.asarray(weights, np.float64)
    order = np.argsort(place, axis=1, kind="stable")
    place, weight = np.take_along_axis(place, order, 1), np.take_along_axis(weight, order, 1)
    total = weight.sum(axis=1, keepdims=True)
    # Around the mean, so that the differences of sums keep their digits.
    origin = (place * weight).sum(axis=1, keepdims=True) / np.where(total > 0, total, 1)
    zeroth, first, second = (np.zeros((len(place), place.shape[1] + 1)) for _ in range(3))
    np.cumsum(weight, axis=1, out=zeroth[:, 1:])
    np.cumsum(weight * (place - origin), axis=1, out=first[:, 1:])
    np.cumsum(weight * (place - origin) ** 2, axis=1, out=second[:, 1:])
    return _PrefixSums(zeroth, first, second, origin)


def _cost(sums: _PrefixSums, row: Int64, i: Int64, j: Int64) -> Float64:
    """Return the squared error of the values i .. j-1 around their mean."""
    weight = sums.zeroth[row, j] - sums.zeroth[row, i]
    first = sums.first[row, j] - sums.first[row, i]
    second = sums.second[row, j] - sums.second[row, i]
    return np.maximum(second - first**2 / np.where(weight > 0, weight, 1), 0)


def _one_more_cluster(error: Float64, sums: _PrefixSums) -> tuple[Float64, npt.NDArray[np.int32]]:
    """Return D_m from D_(m-1), and for each j where the last of its clusters starts."""
    rows, size = error.shape
    best = np.zeros_like(error)
    start = np.zeros(error.shape, np.int32)
    stride = 1 << (size - 1).bit_length()
    while stride:
        # The neighbours at distance `stride` are known: multiples of 2 * stride came before.
        j = np.arange(stride, size, 2 * stride)
        if len(j):
            beyond = j + stride >= size
            first = start[:, j - stride].astype(np.int64)
            last = np.where(beyond, j, start[:, np.where(beyond, 0, j + stride)]).astype(np.int64)
            row = np.broadcast_to(np.arange(rows)[:, None], first.shape)
            value, chosen = _least(error, sums, row.ravel(), np.tile(j, rows), (first.ravel(), last.ravel()))
            best[:, j], start[:, j] = value.reshape(first.shape), chosen.reshape(first.shape)
        stride >>= 1
    return best, start


def _least(
    error: Float64, sums: _PrefixSums, row: Int64, j: Int64, bounds: tuple[Int64, Int64]
) -> tuple[Float64, Int64]:
    """Return the least of error[row, i] + c(i, j) over the bounds of i, both included, and the first such i."""
    first, last = bounds
    lengths = np.maximum(last - first, 0) + 1  # rounding may cross the bounds of equally good starts
    begins = np.cumsum(lengths) - lengths
    entry = np.repeat(np.arange(len(lengths)), lengths)
    i = np.arange(len(entry)) - begins[entry] + first[entry]
    totals = error[row[entry], i] + _cost(sums, row[entry], i, j[entry])
    value = np.minimum.reduceat(totals, begins)
    hits = np.flatnonzero(totals == value[entry])
    _, earliest = np.unique(entry[hits], return_index=True)
    return value, i[hits[earliest]]


def _centroids(starts: list[npt.NDArray[np.int32]], sums: _PrefixSums, count: int) -> Float64:
    rows, size = sums.zeroth.shape
    centroids = np.full((rows, count), np.nan)
    row, end = np.arange(rows), np.full(rows, size - 1)
    for cluster, start in reversed(list(enumerate(starts))):
        begin = start[row, end]
        weight = sums.zeroth[row, end] - sums.zeroth[row, begin]
        first = sums.first[row, end] - sums.first[row, begin]
        with np.errstate(invalid="ignore", divide="ignore"):
            centroids[:, cluster] = np.where(weight > 0, first / weight, np.nan)
        end = begin
    centroids = np.sort(centroids, axis=1)  # NaN, of empty clusters, goes last
    largest = np.nanmax(centroids, axis=1, keepdims=True, initial=-np.inf)
    filled = np.where(np.isnan(centroids), np.where(np.isfinite(largest), largest, 0), centroids)
    return np.asarray(filled + sums.origin)
