"""Lookups of rows of codes, in either form, written as what they represent: Gather of a table that is dequantized.

    GatherBlockQuantized (codes, indices, scales)        DequantizeLinear (codes, scales) -> Gather (indices)
    Gather (codes) [unpacked], Gather (scales) ->     the same
        DequantizeLinear

Codes, scales and zero points stay what they are; codes without zero points become signed, where 0 is the middle.
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.GatherBlockQuantized
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxq.graph.constants import constant_array, moved_tensor
from onnxq.graph.walk import bodies, input_at, nodes
from onnxq.graph.writer import Writer, drop_dead, replace
from onnxq.numerics.packing import unpack
from onnxq.ops import op_key
from onnxq.ops.quantized import QUANTIZED_OPERATORS, quantized_operator
from onnxq.passes.read.qoperator import plain


class Wanted(Protocol):
    """Returns whether a node is to be rewritten."""

    def __call__(self, name: str, op: str, weighted: bool = True) -> bool:
        """Take path name, float operator and whether it has a constant weight."""


_OPERATOR = QUANTIZED_OPERATORS["GatherBlockQuantized"]
_SLOTS = [slot for slot in _OPERATOR.slots(0) if slot is not None]
_BITS = (2, 4, 8)
_APART = ("Reshape", "BitwiseAnd", "BitShift", "Unsqueeze")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Table:
    """Codes [rows, columns] one each, their type, scales and zero points (None for 0) [rows, blocks], block size."""

    codes: npt.NDArray[Any]
    dtype: ir.DataType
    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[Any] | None
    block: int


def holds_lookups(model: ir.Model) -> bool:
    """Return whether a model holds GatherBlockQuantized."""
    return any(quantized_operator(node) is _OPERATOR for graph in bodies(model) for node in graph)


def expand_lookups(model: ir.Model, wanted: Wanted) -> dict[str, str]:
    """Write GatherBlockQuantized as DequantizeLinear and Gather, in place; return why not, by path name."""
    left = {}
    writer = Writer(model)
    for name, node in list(nodes(model)):
        if quantized_operator(node) is _OPERATOR and wanted(name, "Gather"):
            table = _table(node)
            if isinstance(table, str):
                left[name] = table
            else:
                stored = [input_at(node, slot) for slot in _SLOTS]
                _write(writer, table, stored, lookup=node, behind=node)
    return left


def join_lookups(model: ir.Model, wanted: Wanted) -> None:
    """Write rows of codes that are looked up and dequantized then as rows of a dequantized table, in place."""
    writer = Writer(model)
    names = {node: name for name, node in nodes(model)}
    for graph in bodies(model):
        for node in list(graph):
            codes = _lookup(input_at(node, 0)) if op_key(node) == "DequantizeLinear" else None
            if codes is not None and wanted(names[codes.node], "Gather"):
                table = _joined(node, codes)
                if table is not None:
                    parts = (_lookup(value) for value in node.inputs)
                    stored = tuple(None if part is None else part.node.inputs[0] for part in parts)
                    _write(writer, table, stored, lookup=codes.node, behind=node)


def _table(node: ir.Node) -> _Table | str:
    """Return the table of a GatherBlockQuantized, or why operators of the standard do not look up in it."""
    given = [input_at(node, slot) for slot in _SLOTS]
    data, scale, zeros = map(moved_tensor, given)
    if data is None or scale is None or (zeros is None and given[2] is not None):
        return "its codes, scales or zero points are computed"
    if scale.dtype != ir.DataType.FLOAT:
        return f"its scales are {scale.dtype.name.lower()}"
    option = node.attributes.get_int
    bits, block, rank = option("bits", 4), option("block_size", 128), len(data.shape)
    if rank != 2 or option("gather_axis", 0) % rank or option("quantize_axis", 1) % rank != 1:
        return "it looks up something else than rows of a matrix, with blocks along the rows"
    codes, points, dtype = data.numpy(), None if zeros is None else zeros.numpy(), data.dtype
    if dtype == ir.DataType.UINT8 and bits in _BITS:
        codes = unpack(codes, bits, codes.shape[1] * 8 // bits)
        points = None if points is None else unpack(points, bits, scale.shape.numpy()[1])
        dtype = getattr(ir.DataType, f"UINT{bits}")
        if points is None:
            # The middle code: what codes of the signed type need not say.
            codes = (codes.astype(np.int16) - (1 << (bits - 1))).astype(np.int8)
            dtype = getattr(ir.DataType, f"INT{bits}")
    elif dtype not in (ir.DataType.INT4, ir.DataType.UINT4):  # whose zero point is 0 where nothing is said
        return f"its codes are {dtype.name.lower()}"
    if tuple(scale.shape) != (codes.shape[0], -(-codes.shape[1] // block)):
        return f"its scales are not one for each block of {block}"
    return _Table(codes=codes, dtype=dtype, scale=scale.numpy(), zero_point=points, block=block)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Lookup:
    """The Gather of rows from a constant matrix, the matrix, and the bits of its codes where bytes are unpacked."""

    node: ir.Node
    matrix: npt.NDArray[Any]
    bits: int | None = None


def _lookup(value: ir.Value | None) -> _Lookup | None:
    """Return the rows that a value is, None if it is something else."""
    node = None if value is None else value.producer()
    if node is None or node.domain:
        return None
    if node.op_type == "Gather":
        matrix = constant_array(node.inputs[0])
        rows = matrix is not None and matrix.ndim == 2 and node.attributes.get_int("axis", 0) in (0, -2)
        return _Lookup(node=node, matrix=matrix) if rows and matrix is not None else None
    if node.op_type == "Cast" and node.attributes.get_int("to", 0) == ir.DataType.INT8 and node.inputs[0] is not None:
        node = node.inputs[0].producer()  # to int8, in which codes of 4 bits and fewer stay what they are
    if node is None:
        return None
    steps = [node]  # Unsqueeze, BitShift, BitwiseAnd, Reshape; the last of them first
    while len(steps) < len(_APART) and steps[-1].inputs[0] is not None:
        before = steps[-1].inputs[0].producer()
        if before is None:
            return None
        steps.append(before)
    if tuple(step.op_type for step in steps) != _APART:
        return None
    mask, shifts = (constant_array(steps[index].inputs[1]) for index in (1, 2))
    packed = _lookup(steps[-1].inputs[0])
    if packed is None or packed.bits is not None or mask is None or shifts is None or mask.size != 1:
        return None
    bits = int(mask.reshape(())).bit_length()
    unpacks = bits in _BITS and mask == (1 << bits) - 1 and np.array_equal(shifts.reshape(-1), range(0, 8, bits))
    right = steps[2].attributes.get_string("direction", "") == "RIGHT"
    return replace_fields(packed, bits=bits) if unpacks and right else None


def _joined(node: ir.Node, codes: _Lookup) -> _Table | None:
    """Return the table of a DequantizeLinear whose codes, scales and zero points are looked up, None if it is none."""
    indices, block = codes.node.inputs[1], node.attributes.get_int("block_size", 0)
    scale, zeros = (_lookup(input_at(node, slot)) for slot in (1, 2))
    if scale is None or (zeros is None and input_at(node, 2) is not None) or indices is None or indices.shape is None:
        return None
    if any(each is not None and (each.node.inputs[1] is not indices or each.bits) for each in (scale, zeros)):
        return None
    rank, matrix, points = len(indices.shape), codes.matrix, None if zeros is None else zeros.matrix
    if not block or node.attributes.get_int("axis", 1) % (rank + 1) != rank or scale.matrix.dtype != np.float32:
        return None
    dtype = ir.DataType.from_numpy(matrix.dtype)
    if codes.bits is not None:
        matrix, dtype = unpack(matrix, codes.bits, matrix.shape[1] * 8 // codes.bits), _unsigned(codes.bits)
        if points is None or points.max(initial=0) >> codes.bits:
            return None
        points = points.astype(np.uint8)
    if scale.matrix.shape != (matrix.shape[0], -(-matrix.shape[1] // block)):
        return None
    return _Table(codes=matrix, dtype=dtype, scale=scale.matrix, zero_point=points, block=block)


def _unsigned(bits: int) -> ir.DataType:
    dtype: ir.DataType = getattr(ir.DataType, f"UINT{bits}")
    return dtype


def _write(
    writer: Writer, table: _Table, stored: Sequence[ir.Value | None], *, lookup: ir.Node, behind: ir.Node
) -> None:
    """Write a table's DequantizeLinear and the Gather of its rows.

    Args:
        writer: of the model.
        table: to write.
        stored: the values of its codes, scales and zero points.
        lookup: the node that looked rows up.
        behind: the one whose output they are; it is taken out, with what only it read.
    """
    graph, kind = behind.graph, table.dtype.numpy()
    assert isinstance(graph, ir.Graph)
    stem = plain(None if stored[0] is None else stored[0].name)
    writer.step_aside(*stored)

    def constant(name: str, array: npt.NDArray[Any]) -> ir.Value:
        return writer.constant(graph, f"{stem}/{name}", ir.tensor(array.astype(kind), dtype=table.dtype))

    scale = writer.constant(graph, f"{stem}/scale", np.ascontiguousarray(table.scale))
    zeros = None if table.zero_point is None else constant("zero_point", table.zero_point)
    dequantize = writer.dequantize(
        constant("quantized", table.codes), scale, zeros, f"{stem}/dequantized", axis=1, block_size=table.block
    )
    old = behind.outputs[0]
    rows = writer.node(
        "Gather",
        [dequantize.outputs[0], lookup.inputs[1]],
        f"{old.name}/rows",
        attributes={"axis": 0},
        name=lookup.name,
        dtype=ir.DataType.FLOAT,
        shape=old.shape,
    )
    graph.insert_before(behind, [dequantize, rows])
    replace(old, rows.outputs[0])
    drop_dead(behind)
