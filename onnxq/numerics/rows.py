"""One array of samples to clusters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxq.numerics.clusters import BELOW_ALL, group
from onnxq.numerics.exact import exact_sum
from onnxq.numerics.grid import CHUNK, MAX_BINS, count_bins, level_for, shrink
from onnxq.types.statistics import Cluster

Array = npt.NDArray[Any]
_LOWEST = -1074


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What an array held."""

    clusters: tuple[Cluster, ...]
    nan: int
    pos_inf: int
    neg_inf: int
    zeros: int


def observe_rows(rows: Array) -> Seen:
    """Return what an array of samples holds.

    Args:
        rows: float32 or float64, shape (samples, values of a sample), contiguous.
    """
    occupied: set[int] = set()
    nan = pos_inf = neg_inf = zeros = 0
    for _, piece in _pieces(rows):
        values = piece[np.isfinite(piece)]
        if values.size < piece.size:
            nan += int(np.isnan(piece).sum())
            pos_inf += int((piece == np.inf).sum())
            neg_inf += int((piece == -np.inf).sum())
        nonzero = values[values != 0]
        zeros += values.size - nonzero.size
        exponents = np.frexp(nonzero)[1] - 1
        occupied.update((np.flatnonzero(np.bincount(exponents - _LOWEST)) + _LOWEST).tolist())
    parts = [(e, e, e) for e in occupied] + ([(BELOW_ALL, BELOW_ALL, BELOW_ALL)] if zeros else [])
    clusters = []
    for each in group(parts):
        lower = 0.0 if each.reaches_zero or each.top == BELOW_ALL else 2.0**each.bottom
        clusters.append(_cluster(rows, lower, each.top, each.reaches_zero))
    return Seen(clusters=tuple(clusters), nan=nan, pos_inf=pos_inf, neg_inf=neg_inf, zeros=zeros)


def _cluster(rows: Array, lower: float, top: int, reaches_zero: bool) -> Cluster:
    level = level_for(2.0**top if top != BELOW_ALL else 0.0)
    minima, maxima = np.full(rows.shape[0], np.inf), np.full(rows.shape[0], -np.inf)
    counts = np.zeros(MAX_BINS, np.int64)
    smallest, minimum, maximum, total, squares = np.inf, np.inf, -np.inf, 0.0, 0.0
    for index, piece in _pieces(rows):
        magnitude = np.abs(piece)
        upto = np.frexp(magnitude)[1] - 1 <= top if top != BELOW_ALL else magnitude == 0
        upto &= np.isfinite(piece)
        upto |= magnitude == 0
        minima[index] = np.minimum(minima[index], piece.min(axis=1, initial=np.inf, where=upto))
        maxima[index] = np.maximum(maxima[index], piece.max(axis=1, initial=-np.inf, where=upto))
        here = upto & (magnitude >= lower)
        values = piece[here]
        if not values.size:
            continue
        counts += count_bins(values, level)
        smallest = min(smallest, float(magnitude[here].min()))
        minimum, maximum = min(minimum, float(values.min())), max(maximum, float(values.max()))
        wide = values.astype(np.float64)
        total += float(wide.sum())
        with np.errstate(over="ignore"):
            squares += float(np.square(wide).sum())
    seen = maxima >= minima
    return Cluster(
        smallest=0.0 if reaches_zero else smallest,
        largest=max(-minimum, maximum),
        histogram=shrink(counts, level),
        minimum=minimum + 0.0,
        maximum=maximum + 0.0,
        count=int(counts.sum()),
        sum=total,
        sum_squares=squares,
        samples=int(seen.sum()),
        sum_minima=exact_sum(minima[seen].tolist()),
        sum_maxima=exact_sum(maxima[seen].tolist()),
    )


def _pieces(rows: Array) -> Iterator[tuple[slice, Array]]:
    """Yield (samples, values) in pieces that stay in a core's own cache."""
    samples, size = rows.shape
    if not rows.size:
        return
    step = max(1, CHUNK // size)
    for first in range(0, samples, step):
        for start in range(0, size, CHUNK):
            yield slice(first, first + step), rows[first : first + step, start : start + CHUNK]
