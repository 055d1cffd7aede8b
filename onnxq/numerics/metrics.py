"""How far apart two arrays are: streaming, in float64, exact about infinities and NaN.

`ErrorSums` is fed pair by pair and holds sums only, so its memory does not grow with the number of samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# Elements handled at once: three float64 temporaries of this many elements stay within a processor's cache and a
# tensor of any size is compared in constant memory.
_CHUNK = 1 << 16


def as_array(value: Any) -> npt.NDArray[Any]:
    """Return what a model returned as one array: lists of tensors are stacked, or joined flat where shapes differ."""
    if not isinstance(value, list) or not value:
        return np.asarray(value)
    parts = [as_array(each) for each in value]
    alike = all(part.shape == parts[0].shape for part in parts)
    return np.stack(parts) if alike else np.concatenate([part.reshape(-1) for part in parts])


@dataclass(kw_only=True, slots=True)
class ErrorSums:
    """Sums over all pairs of a reference x and an actual value y that were added.

    Elements that are not finite are taken out of the sums: where both hold the same infinity or both NaN they agree;
    any other place with NaN or infinity in one of them is counted in `broken`, and so is every element of a pair of
    different shapes.

    Attributes:
        count: finite elements compared.
        signal: sum of x^2.
        noise: sum of (x - y)^2.
        max_abs: largest |x - y|.
        total: sum of x.
        broken: elements that cannot be compared: infinite or NaN on one side, or of another shape.
    """

    count: int = 0
    signal: float = 0.0
    noise: float = 0.0
    max_abs: float = 0.0
    total: float = 0.0
    broken: int = 0

    def add(self, reference: npt.ArrayLike, actual: npt.ArrayLike) -> None:
        """Add one pair of arrays of any real dtype, complex excluded, and of equal shape; lists as for `as_array`."""
        x, y = as_array(reference), as_array(actual)
        if x.shape != y.shape:
            self.broken += max(x.size, y.size)
            return
        x, y = x.reshape(-1), y.reshape(-1)
        for start in range(0, x.size, _CHUNK):
            self._add_chunk(
                x[start : start + _CHUNK].astype(np.float64),
                y[start : start + _CHUNK].astype(np.float64),
            )

    def _add_chunk(self, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> None:
        finite = np.isfinite(x) & np.isfinite(y)
        if not finite.all():
            same = (x == y) | (np.isnan(x) & np.isnan(y))
            self.broken += int(np.count_nonzero(~finite & ~same))
            x, y = x[finite], y[finite]
        if not x.size:
            return
        difference = x - y
        self.count += x.size
        self.total += float(x.sum())
        self.signal += float(np.dot(x, x))
        self.noise += float(np.dot(difference, difference))
        self.max_abs = max(self.max_abs, float(np.max(np.abs(difference))))

    @property
    def sqnr_db(self) -> float:
        """Return the signal-to-quantization-noise ratio, 10 log10(sum x^2 / sum (x - y)^2), in dB.

        inf where both are identical; -inf where something is `broken`, or the reference is zero and the actual is not.
        Formula: Widrow and Kollar, Quantization Noise (2008), with the measured error as noise.
        """
        if self.broken:
            return -math.inf
        if self.noise == 0.0:
            return math.inf
        if self.signal == 0.0:
            return -math.inf
        return 10.0 * (math.log10(self.signal) - math.log10(self.noise))

    @property
    def max_error(self) -> float:
        """Return the largest absolute difference; inf where something is `broken`."""
        return math.inf if self.broken else self.max_abs


def compare(reference: npt.ArrayLike, actual: npt.ArrayLike) -> ErrorSums:
    """Return the sums of one pair of arrays."""
    sums = ErrorSums()
    sums.add(reference, actual)
    return sums


def sqnr_db(reference: npt.ArrayLike, actual: npt.ArrayLike) -> float:
    """Return the SQNR of one pair in dB; see `ErrorSums.sqnr_db`."""
    return compare(reference, actual).sqnr_db


def argmax_agreement(reference: npt.ArrayLike, actual: npt.ArrayLike) -> tuple[int, int] | None:
    """Count the positions whose arg-max over the last axis agrees.

    Args:
        reference: array of shape (..., classes).
        actual: array of the same shape.

    Returns:
        (agreeing, all) positions; None where there is nothing to compare: rank below 2, fewer than two classes,
        or different shapes.
    """
    x, y = np.asarray(reference), np.asarray(actual)
    if x.shape != y.shape or x.ndim < 2 or x.shape[-1] < 2:
        return None
    agree = np.argmax(x, axis=-1) == np.argmax(y, axis=-1)
    return int(np.count_nonzero(agree)), agree.size
