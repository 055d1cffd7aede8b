"""Kullback-Leibler divergence between a histogram and what is left of it when it is clipped and quantized.

For a window of W bins and L levels (S. Migacz 2017, 8-bit Inference with TensorRT, GTC):

- P is the histogram within the window, the counts outside added to its first and last bin.
- Q: bin i belongs to level floor(i * L / W); each level's mass (without the counts from outside) is spread evenly over
  those of its bins where P is not zero. A window of fewer than L bins has one level a bin.
- With both scaled to sum 1, the divergence is the sum of P log(P / Q) over bins where P is not zero.
- A level that only counts from outside reach is given half a count (Krichevsky and Trofimov 1981), for without any the
  divergence is infinite: a window that ends in a gap before an outlier would never be chosen.
- A window that holds less than half of the counts is none: with all of them added to its ends, P and Q are equal.

One pass over the bins gives prefix sums, from which a window costs L steps instead of W:

    sum P log Q = sum over levels of (P's mass in the level) * log(level's mass / its number of bins with P > 0).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_UNSEEN = 0.5
# Turns 0 log(0 / 0) into 0 and changes nothing else.
_TINY = 1e-300
# Windows handled at a time, so that what is computed for them stays in a core's own cache.
_WINDOWS = 32


def divergences(counts: Floats, starts: Ints, ends: Ints, levels: int) -> Floats:
    """Return the divergence of each window.

    Args:
        counts: shape (bins,), not negative.
        starts, ends: windows [start, end), shape (windows,); each of at least two bins.
        levels: L.

    Returns:
        Nats, shape (windows,); infinite for windows that are none.
    """
    prefixes = _prefix(counts), _prefix((counts > 0).astype(np.float64)), _prefix(_xlogx(counts))
    parts = [slice(start, start + _WINDOWS) for start in range(0, starts.size, _WINDOWS)]
    return np.concatenate([_divergences(counts, prefixes, starts[part], ends[part], levels) for part in parts])


def _divergences(
    counts: Floats, prefixes: tuple[Floats, Floats, Floats], starts: Ints, ends: Ints, levels: int
) -> Floats:
    cumulative, filled, entropies = prefixes
    total = cumulative[-1]
    before, behind = cumulative[starts], total - cumulative[ends]
    first, last = counts[starts], counts[ends - 1]

    # sum P log P: the window's own, but for the bins at its ends.
    own = entropies[ends] - entropies[starts]
    own += _xlogx(first + before) - _xlogx(first) + _xlogx(last + behind) - _xlogx(last)

    width = ends - starts
    used = np.minimum(levels, width)
    # Level c begins at the first bin i with i * L / W >= c; levels beyond a window's own are empty. Float quotients of
    # numbers this small never round up to the next whole one.
    level = np.arange(float(used.max() + 1))
    edges = np.minimum(np.ceil(level * width[:, None] / used[:, None]), width[:, None]).astype(np.int64)
    edges += starts[:, None]
    mass, bins = (np.diff(each.take(edges), axis=1) for each in (cumulative, filled))

    rows, final = np.arange(width.size), used - 1
    clipped = mass.copy()
    clipped[:, 0] += before
    clipped[rows, final] += behind
    bins[:, 0] += (first == 0) & (before > 0)
    bins[rows, final] += (last == 0) & (behind > 0)
    # Only the levels at the ends can hold counts from outside and none of their own.
    mass[:, 0] += _UNSEEN * ((mass[:, 0] == 0) & (before > 0))
    mass[rows, final] += _UNSEEN * ((mass[rows, final] == 0) & (behind > 0))
    crossed = (clipped * np.log((mass + _TINY) / (bins + _TINY))).sum(axis=1)
    inside = cumulative[ends] - cumulative[starts]
    found = (own - crossed) / total + np.log(np.maximum(inside, _UNSEEN) / total)
    return np.where(2 * inside < total, np.inf, found)


def _prefix(values: Floats) -> Floats:
    return np.concatenate([[0.0], np.cumsum(values)])


def _xlogx(values: Floats) -> Floats:
    return values * np.log(np.where(values > 0, values, 1.0))
