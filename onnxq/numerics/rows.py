"""One array of samples to clusters, by looking at every magnitude: for arrays that hold masks, NaN or little else."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxq.numerics.clusters import BELOW_ALL, Group, group
from onnxq.numerics.exact import exact_sum
from onnxq.numerics.grid import SIDE, count_bins, level_for, new_counts, shrink
from onnxq.numerics.pieces import Rows, pieces
from onnxq.types.statistics import Cluster

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What an array held."""

    clusters: tuple[Cluster, ...]
    nan: int
    pos_inf: int
    neg_inf: int
    zeros: int


def observe_rows(rows: Rows, *, counted: bool = True) -> Seen:
    """Return what an array of samples holds; without `counted`, a cluster that reaches to zero has no histogram."""
    binades: Counter[int] = Counter()
    nan = pos_inf = neg_inf = 0
    for _, piece in pieces(rows):
        values = piece.reshape(-1)
        found, odd = _binades(values)
        binades.update(found)
        if odd:
            nan += int(np.isnan(values).sum())
            pos_inf += int((values == np.inf).sum())
            neg_inf += int((values == -np.inf).sum())
    clusters = tuple(_cluster(rows, each, counted) for each in group((e, e, e) for e in binades))
    return Seen(clusters=clusters, nan=nan, pos_inf=pos_inf, neg_inf=neg_inf, zeros=binades[BELOW_ALL])


def _binades(values: Array) -> tuple[dict[int, int], int]:
    """Return how many finite values lie in each binade (zeros in BELOW_ALL), and how many are not finite."""
    single = values.dtype == np.float32
    bits: Array = values.view(np.int32 if single else np.int64)
    mantissa, bias, mask = (23, 127, 0xFF) if single else (52, 1023, 0x7FF)
    exponents = ((bits >> mantissa) & mask).astype(np.int64)
    counts = np.bincount(exponents, minlength=mask + 1)
    found = {int(e) - bias: int(counts[e]) for e in np.flatnonzero(counts[1:mask]) + 1}
    zeros = int(np.count_nonzero(values == 0)) if counts[0] else 0
    if zeros:
        found[BELOW_ALL] = zeros
    if counts[0] > zeros:  # subnormal numbers, whose exponent field says nothing
        small = values[(exponents == 0) & (values != 0)].astype(np.float64)
        found.update(Counter((np.frexp(small)[1] - 1).tolist()))
    return found, int(counts[mask])


def _cluster(rows: Rows, part: Group[int], counted: bool) -> Cluster:
    """Collect the values of one group of binades."""
    zero = part.top == BELOW_ALL
    lower = 0.0 if zero or part.reaches_zero else 2.0**part.bottom
    # Above all of the cluster and below all others: beyond the largest number lies only infinity, which is no value.
    last = part.top + 1 >= np.finfo(rows.dtype).maxexp
    upper = np.inf if last else 0.0 if zero else 2.0 ** (part.top + 1)
    level = level_for(0.0 if zero else 2.0**part.top)
    minima, maxima = np.full(rows.shape[0], np.inf), np.full(rows.shape[0], -np.inf)
    counts = new_counts()
    smallest, minimum, maximum = np.inf, np.inf, -np.inf
    for index, piece in pieces(rows):
        magnitude = np.abs(piece)
        upto = magnitude == 0 if zero else magnitude < upper
        whole = bool(upto.all())
        lows = (piece if whole else _keep(piece, upto, np.inf)).min(axis=1)
        highs = (piece if whole else _keep(piece, upto, -np.inf)).max(axis=1)
        minima[index], maxima[index] = np.minimum(minima[index], lows), np.maximum(maxima[index], highs)
        here = upto & (magnitude >= lower) if lower else upto
        count = int(np.count_nonzero(here))
        if not count:
            continue
        low = float(_keep(piece, here, np.inf).min() if lower else lows.min())
        high = float(_keep(piece, here, -np.inf).max() if lower else highs.max())
        minimum, maximum = min(minimum, low), max(maximum, high)
        if not part.reaches_zero:
            smallest = min(smallest, float(_keep(magnitude, here, np.inf).min()))
        if low == high:  # a mask's one value
            one = new_counts()
            count_bins(one, np.array([low]), level)
            counts += count * one
            continue
        # Zeros in place of the others, taken off again, cost less than picking values out.
        values = _keep(piece, here, 0.0).reshape(-1)
        count_bins(counts, values, level)
        counts[0, SIDE] -= values.size - count
    seen = maxima >= minima
    return Cluster(
        smallest=0.0 if part.reaches_zero else smallest,
        largest=max(abs(minimum), abs(maximum)),
        histogram=shrink(counts.sum(axis=0), level) if counted or not part.reaches_zero else None,
        minimum=minimum + 0.0,
        maximum=maximum + 0.0,
        count=int(counts.sum()),
        samples=int(np.count_nonzero(seen)),
        sum_minima=exact_sum(minima[seen].tolist()),
        sum_maxima=exact_sum(maxima[seen].tolist()),
    )


def _keep(values: Array, where: npt.NDArray[np.bool_], fill: float) -> Array:
    """Return np.where(where, values, fill), without a branch for each element."""
    whole = np.int32 if values.dtype == np.float32 else np.int64
    bits: Array = values.view(whole)
    mask: Array = np.negative(where.astype(whole))
    kept: Array = bits & mask
    if fill:
        kept |= ~mask & values.dtype.type(fill).view(whole)
    return kept.view(values.dtype)
