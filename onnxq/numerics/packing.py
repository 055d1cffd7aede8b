"""Codes of fewer than 8 bits in bytes, the first code in the lowest bits.

That is the layout of ONNX tensors of 2 and 4 bits (onnx.proto, TensorProto.raw_data) and, row by row, of the
contributed operators MatMulNBits and GatherBlockQuantized.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def pack(codes: npt.NDArray[Any], bits: int, *, fill: int = 0) -> npt.NDArray[np.uint8]:
    """Return unsigned codes packed along the last axis.

    Args:
        codes: 0 .. 2^bits - 1, any integer type.
        bits: 2, 4 or 8.
        fill: code that pads the last byte of a row.

    Returns:
        uint8, the last axis ceil(n * bits / 8) long.
    """
    per_byte = 8 // bits
    missing = -codes.shape[-1] % per_byte
    if missing:
        codes = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, missing)], constant_values=fill)
    codes = codes.astype(np.uint8, copy=False)
    packed = codes[..., ::per_byte].copy()
    for position in range(1, per_byte):
        packed |= codes[..., position::per_byte] << np.uint8(position * bits)
    return packed


def unpack(packed: npt.NDArray[np.uint8], bits: int, count: int) -> npt.NDArray[np.uint8]:
    """Undo `pack`: return the first `count` codes of each row as uint8."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return codes.reshape(*packed.shape[:-1], packed.shape[-1] * len(shifts))[..., :count]
