"""What integer kernels compute here, in numpy: from the codes that a model holds, for whatever processor runs the test.

Sums are exact in int64. Where the processor adds pairs of uint8 x int8 products in 16 bits (`adds_pairs`), so does
`accumulated`: products 2k and 2k + 1 along what is summed over, each pair cut off at -32768 and 32767 (PMADDUBSW, Intel
64 and IA-32 Architectures Software Developer's Manual, volume 2). Zero points are taken off afterwards, as kernels do:

    sum (a - za) (b - zb) = sum a b - za sum b - zb sum a + K za zb.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnxq.runtime.saturation import adds_pairs

Codes = npt.NDArray[Any]
Int64 = npt.NDArray[np.int64]


def exactly(a: Codes, b: Codes, a_zero: Any = 0, b_zero: Any = 0) -> Int64:
    """Return the product of codes without their zero points, as integers have it.

    Args:
        a, b: codes of shapes (..., M, K) and (..., K, N). a_zero, b_zero: zero points that broadcast to them.
    """
    return np.asarray((np.int64(a) - np.int64(a_zero)) @ (np.int64(b) - np.int64(b_zero)))


def accumulated(a: Codes, b: Codes, a_zero: Any = 0, b_zero: Any = 0, *, pairs: bool | None = None) -> Int64:
    """Return the product that a kernel on this processor computes.

    Args:
        a, b, a_zero, b_zero: as for `exactly`, in the types that the kernel reads.
        pairs: whether it adds pairs in 16 bits; None: what this processor does with such types.
    """
    if pairs is None:
        pairs = a.dtype == np.uint8 and b.dtype == np.int8 and adds_pairs()
    if not pairs:
        return exactly(a, b, a_zero, b_zero)
    odd = a.shape[-1] % 2
    left = np.pad(np.int64(a), [(0, 0)] * (a.ndim - 1) + [(0, odd)])
    right = np.pad(np.int64(b), [(0, 0)] * (b.ndim - 2) + [(0, odd), (0, 0)])
    products = left[..., :, :, None] * right[..., None, :, :]
    added = products[..., 0::2, :] + products[..., 1::2, :]
    sums = np.clip(added, -32768, 32767).sum(axis=-2)
    lost = sums - exactly(a, b)
    return np.asarray(exactly(a, b, a_zero, b_zero) + lost)


def exact_here(target: str) -> bool:
    """Return whether kernels of this processor compute exactly what is planned for a CPU target."""
    return target == "cpu-avx2" or not adds_pairs()
