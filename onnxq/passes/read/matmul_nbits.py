"""MatMulNBits written as what it represents: DequantizeLinear of codes in blocks, MatMul, and an Add for a bias.

Codes, scales and zero points stay what they are; codes without zero points become signed, where 0 is the middle.
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxq.graph.constants import constant_array
from onnxq.graph.node_marks import mark_accuracy
from onnxq.graph.walk import bodies, input_at, nodes
from onnxq.graph.writer import Writer, replace
from onnxq.numerics.packing import unpack
from onnxq.ops.quantized import MATMUL_NBITS, QUANTIZED_OPERATORS, quantized_operator
from onnxq.passes.read.lookups import Wanted
from onnxq.passes.read.qoperator import plain
from onnxq.types.accuracy import ROUNDS

_OPERATOR = QUANTIZED_OPERATORS[MATMUL_NBITS]


def expand_blocks(model: ir.Model, wanted: Wanted) -> dict[str, str]:
    """Write MatMulNBits as DequantizeLinear and MatMul, in place; return why not, by path name."""
    left = {}
    writer = Writer(model)
    for name, node in list(nodes(model)):
        if quantized_operator(node) is _OPERATOR and wanted(name, "MatMul"):
            why = _expand(node, writer)
            if why is not None:
                left[name] = why
    return left


def holds_block_products(model: ir.Model) -> frozenset[int]:
    """Return the bits of the codes that MatMulNBits nodes multiply."""
    return frozenset(node.attributes.get_int("bits", 4) for graph in bodies(model) for node in _products(graph))


def set_accuracy(model: ir.Model, level: int, wanted: Wanted) -> frozenset[str]:
    """Give every MatMulNBits an accuracy level, in place; return the path names of those that had another."""
    changed = set()
    for name, node in nodes(model):
        if quantized_operator(node) is not _OPERATOR or not wanted(name, "MatMul"):
            continue
        if node.attributes.get_int("accuracy_level", 0) != level:
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", level)
            changed.add(name)
    return frozenset(changed)


def _products(graph: ir.Graph) -> Iterator[ir.Node]:
    return (node for node in graph if quantized_operator(node) is _OPERATOR)


def _expand(node: ir.Node, writer: Writer) -> str | None:
    """Write one MatMulNBits in operators of the standard; return why that cannot be done."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    rows, columns, block, bits = (node.attributes.get_int(name, 0) for name in ("N", "K", "block_size", "bits"))
    bits = bits or 4
    packed, scale = (constant_array(value) for value in node.inputs[1:3])
    zero_value, order, bias = (input_at(node, slot) for slot in (3, 4, 5))
    zeros = constant_array(zero_value)
    if packed is None or scale is None or (zero_value is not None and zeros is None):
        return "its codes, scales or zero points are computed"
    if order is not None:
        return "its blocks lie in an order of their own (g_idx)"
    if scale.dtype != np.float32 or packed.dtype != np.uint8 or (zeros is not None and zeros.dtype != np.uint8):
        return f"its scales are {scale.dtype}, or its zero points no codes"
    blocks = -(-columns // block)
    if bits not in (2, 4, 8) or scale.size != rows * blocks:
        return f"its codes are of {bits} bits, or its scales not one for each block"
    codes = unpack(packed.reshape(rows, blocks, -1), bits, block).reshape(rows, -1)[:, :columns].T
    stem = plain(node.inputs[1].name)  # type: ignore[union-attr]
    writer.step_aside(*node.inputs[1:4])
    dtype, points = getattr(ir.DataType, f"UINT{bits}"), None
    if zeros is None:  # the middle code: what codes of the signed type need not say
        codes = (codes.astype(np.int16) - (1 << (bits - 1))).astype(np.int8)
        dtype = getattr(ir.DataType, f"INT{bits}")

    def constant(name: str, array: npt.NDArray[Any]) -> ir.Value:
        return writer.constant(graph, f"{stem}/{name}", ir.tensor(array.astype(dtype.numpy()), dtype=dtype))

    stored = constant("quantized", codes)
    if zeros is not None:
        points = constant("zero_point", unpack(zeros.reshape(rows, -1), bits, blocks).T)
    scales = writer.constant(graph, f"{stem}/scale", np.ascontiguousarray(scale.reshape(rows, blocks).T))
    dequantize = writer.dequantize(stored, scales, points, f"{stem}/dequantized", axis=0, block_size=block)
    old = node.outputs[0]
    source = node.inputs[0]
    inside = bias is not None and source is not None and source.shape is not None and len(source.shape) == 2
    factors = [source, dequantize.outputs[0], bias if inside else None]
    name = f"{old.name}/product"
    product = writer.node(
        "Gemm" if inside else "MatMul", factors, name, name=node.name, dtype=ir.DataType.FLOAT, shape=old.shape
    )
    level = node.attributes.get_int("accuracy_level", 0)
    if level != ROUNDS:
        mark_accuracy(product, level)
    steps = [dequantize, product]
    if bias is not None and not inside:
        added = [product.outputs[0], bias]
        steps.append(writer.node("Add", added, f"{old.name}/sum", dtype=ir.DataType.FLOAT, shape=old.shape))
    graph.insert_before(node, steps)
    replace(old, steps[-1].outputs[0])
    graph.remove(node, safe=True)
    return None
