"""Product quantization: short vectors, not single numbers, are looked up in a table.

Runs of `length` weights of one output share a code of `bits` bits, which is bits / length a weight (Jegou, Douze and
Schmid 2011, Product Quantization for Nearest Neighbor Search; for layers Stock et al. 2019, And the Bit Goes Down).
`Gather` decodes them; all runs share one table, since a table each would outweigh the codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxq.errors import RecipeError

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]

_CHUNK = 1 << 14  # points whose distances are computed at a time
_ROUNDS = 12


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProductCodes:
    """A quantized matrix [features, outputs].

    Attributes:
        codes: uint8 [features / length, outputs].
        table: float32 [2^bits, length].
    """

    codes: UInt8
    table: Float32

    def decoded(self) -> Float32:
        """Return the matrix that the codes represent."""
        runs, outputs = self.codes.shape
        vectors = self.table[self.codes]  # [runs, outputs, length]
        return np.ascontiguousarray(vectors.transpose(0, 2, 1)).reshape(runs * self.table.shape[1], outputs)


def product_quantize(
    weight: Float32, *, length: int, bits: int = 8, importance: npt.NDArray[np.float32] | None = None
) -> ProductCodes:
    """Return codes of runs of `length` features and the table of least squared error that k-means finds.

    Args:
        weight: finite, [features, outputs]; features a multiple of `length`.
        length: features of a run.
        bits: 1 to 8.
        importance: [features], > 0: the mean square of the input that each row multiplies. A run's errors are weighed
            by its mean, so that one table serves all runs.

    Raises:
        RecipeError: a length that does not divide the features, or bits out of range.
    """
    features, outputs = weight.shape
    if not 1 <= bits <= 8 or length < 1 or features % length:
        raise RecipeError(f"runs of {length} features with {bits} bits do not fit a matrix of {features} features")
    runs = features // length
    points = weight.reshape(runs, length, outputs).transpose(0, 2, 1).reshape(-1, length)
    weights = None
    if importance is not None:
        weights = np.repeat(importance.reshape(runs, length).mean(axis=1), outputs)
    table = nearest_means(points, 1 << bits, weights=weights)
    return ProductCodes(codes=nearest(points, table).reshape(runs, outputs).astype(np.uint8), table=table)


def nearest_means(points: Float32, count: int, *, weights: npt.NDArray[np.float32] | None = None) -> Float32:
    """Return `count` means [count, length] of points [n, length] by Lloyd's iteration from spread-out starts.

    The start is k-means++ (Arthur and Vassilvitskii 2007) with fixed random numbers: the same result for the same
    arguments. A mean without points moves to the point with the largest error.
    """
    random = np.random.default_rng(0)
    weight = np.ones(len(points)) if weights is None else weights.astype(np.float64)
    means = np.empty((count, points.shape[1]), np.float32)
    means[0] = points[int(random.integers(len(points)))]
    far = np.full(len(points), np.inf)
    for number in range(1, count):
        far = np.minimum(far, np.square(points - means[number - 1]).sum(axis=1))
        share = far * weight
        total = share.sum()
        place = int(np.searchsorted(np.cumsum(share), random.random() * total)) if total > 0 else number
        means[number] = points[min(place, len(points) - 1)]
    for _ in range(_ROUNDS):
        codes = nearest(points, means)
        mass = np.bincount(codes, weights=weight, minlength=count)
        sums = np.stack([np.bincount(codes, weights=weight * column, minlength=count) for column in points.T], axis=1)
        means = np.where(mass[:, None] > 0, sums / np.where(mass > 0, mass, 1)[:, None], means).astype(np.float32)
        missed = np.square(points - means[codes]).sum(axis=1) * weight
        for number in np.flatnonzero(mass == 0).tolist():
            worst = int(missed.argmax())
            means[number], missed[worst] = points[worst], 0
    return means


def nearest(points: Float32, means: Float32) -> npt.NDArray[np.intp]:
    """Return for each point the number of the nearest mean."""
    half = np.square(means).sum(axis=1) / 2
    numbers = [
        np.argmax(points[begin : begin + _CHUNK] @ means.T - half, axis=1) for begin in range(0, len(points), _CHUNK)
    ]
    return np.concatenate(numbers)
