"""Weight matrices as the contributed operators take them: rows of blocks of unsigned codes, packed into bytes.

A row holds the weights that one output, or one row that is looked up, is made of; blocks lie along the row. So a weight
and its transposed copy come out as the same bytes, and are stored once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxq.numerics.packing import pack
from onnxq.passes.emit.editor import Editor
from onnxq.types.scheme import PerBlock, PerChannel

_SMALLEST_BLOCK = 16
# Of a product without blocks of its own: MatMulNBits rounds what it multiplies to 8 bits, with a scale for each block.
# Next to 8-bit weights that shows: on a transformer encoder blocks of 256 left 24.3 dB, of 32 29.1, float 31.4, in the
# same time. Next to 4-bit weights it does not. Larger blocks than 128 would only mean more padding.
_PRODUCT_BLOCK = {2: 128, 4: 128, 8: 32}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StoredMatrix:
    """A stored matrix.

    Attributes:
        codes: uint8, packed; tables for Gather may be int8.
        scale: float32 [rows, blocks].
        zero_point: uint8 [rows, bytes], packed but in tables for Gather; None for the middle code.
        rows, columns: of the matrix.
        bits: of a code.
        block: codes that share a scale.
    """

    codes: ir.Value
    scale: ir.Value
    zero_point: ir.Value | None
    rows: int
    columns: int
    bits: int
    block: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BlockCodes:
    """A quantized matrix: uint8 codes [rows, columns], scale and zero point [rows, blocks], block size and bits."""

    codes: npt.NDArray[np.uint8]
    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.uint8]
    block: int
    bits: int

    @property
    def middle(self) -> int:
        """The code that represents zero unless another one is named."""
        return 1 << (self.bits - 1)


class BlockWeights:
    """Quantizes matrices and stores what differs."""

    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        self._rows: dict[tuple[int, bytes], ir.Value] = {}

    def for_product(self, key: str, *, by_row: bool) -> StoredMatrix:
        """Return the weight of a product for MatMulNBits, codes as [rows, blocks, bytes of a block].

        Args:
            key: of the weight in the plan.
            by_row: whether its rows, and not its columns, make the outputs.
        """
        matrix = self.codes(key, by_row=by_row, product=True)
        rows, columns = matrix.codes.shape
        blocks = matrix.scale.shape[1]
        padding = [(0, 0), (0, blocks * matrix.block - columns)]
        padded = np.pad(matrix.codes, padding, constant_values=matrix.middle)
        packed = pack(padded.reshape(rows, blocks, matrix.block), matrix.bits)
        stored = self._editor.store(f"{key}/quantized", packed, of=key)
        self._rows.setdefault((rows, _digest(packed)), stored)
        return self._complete(key, matrix, stored)

    def for_lookup(self, key: str) -> StoredMatrix:
        """Return a table for GatherBlockQuantized, codes as [rows, bytes of a row] or as stored for a product."""
        matrix = self.codes(key, by_row=True)
        packed = pack(matrix.codes, matrix.bits)
        stored = self._rows.get((len(packed), _digest(packed))) or self._editor.store(
            f"{key}/quantized", packed, of=key
        )
        return self._complete(key, matrix, stored)

    def for_portable_lookup(self, key: str, *, signed: bool = False) -> StoredMatrix:
        """Return a table for Gather and DequantizeLinear: codes as [rows, bytes of a row], zero points one a byte.

        Codes of 8 bits whose zero points all are the middle one become int8 and need none. `signed`: the others become
        int8, too, and zero points of any; shorter codes still have to, once they are unpacked.
        """
        matrix = self.codes(key, by_row=True)
        rows, columns = matrix.codes.shape
        middle = not (matrix.zero_point != matrix.middle).any()
        flips = matrix.bits == 8 and (signed or middle)
        codes = (matrix.codes ^ 128).view(np.int8) if flips else pack(matrix.codes, matrix.bits)
        zero_point = matrix.zero_point ^ 128 if flips else matrix.zero_point
        zero_point = zero_point.view(np.int8) if signed else zero_point
        return StoredMatrix(
            codes=self._editor.store(f"{key}/quantized", codes, of=key),
            scale=self._editor.store(f"{key}/scale", matrix.scale, of=key),
            zero_point=None if flips and middle else self._editor.store(f"{key}/zero_point", zero_point, of=key),
            rows=rows,
            columns=columns,
            bits=matrix.bits,
            block=matrix.block,
        )

    def codes(self, key: str, *, by_row: bool, product: bool = False) -> BlockCodes:
        """Quantize a matrix; one without blocks gets one a row, or for a `product` those that its kernel likes."""
        codes, params = self._editor.constants.codes(key, transpose=not by_row)
        scheme = params.scheme
        bits = scheme.dtype.stored_bits
        offset = (1 << (bits - 1)) if scheme.dtype.signed else 0
        rows, columns = codes.shape
        scale, zero_point = params.scale, params.zero_point + offset
        if isinstance(scheme.granularity, PerBlock):
            block = scheme.granularity.size
        else:  # blocks that share a scale
            block = max(_SMALLEST_BLOCK, 1 << (columns - 1).bit_length())
            block = min(block, _PRODUCT_BLOCK[bits]) if product else block
            shape = (rows, 1) if isinstance(scheme.granularity, PerChannel) else (1, 1)
            wanted = (rows, -(-columns // block))
            scale = np.broadcast_to(scale.reshape(shape), wanted)
            zero_point = np.broadcast_to(zero_point.reshape(shape), wanted)
        return BlockCodes(
            codes=np.add(codes, offset, out=np.empty(codes.shape, np.uint8), casting="unsafe"),
            scale=np.ascontiguousarray(scale),
            zero_point=zero_point.astype(np.uint8),
            block=block,
            bits=bits,
        )

    def _complete(self, key: str, matrix: BlockCodes, codes: ir.Value) -> StoredMatrix:
        zero_point = None
        if (matrix.zero_point != matrix.middle).any():
            packed = pack(matrix.zero_point, matrix.bits)
            zero_point = self._editor.store(f"{key}/zero_point", packed, of=key)
        return StoredMatrix(
            codes=codes,
            scale=self._editor.store(f"{key}/scale", matrix.scale, of=key),
            zero_point=zero_point,
            rows=matrix.codes.shape[0],
            columns=matrix.codes.shape[1],
            bits=matrix.bits,
            block=matrix.block,
        )


def _digest(array: npt.NDArray[np.uint8]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(array).data).digest()
