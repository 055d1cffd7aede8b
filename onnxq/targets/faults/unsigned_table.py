"""Rows of a uint8 table, dequantized with a zero point each, directly in front of a product of int8 weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnxq.targets.faults import Case, Fault, Instead, WriteRequest, faults
from onnxq.targets.faults._nodes import dequantizes, dtype_of, is_filled, is_op, producer, readers
from onnxq.targets.faults._texts import constant, model, numbers
from onnxq.types.plan import Detour

if TYPE_CHECKING:
    import onnx_ir as ir


def _meets_request(request: WriteRequest) -> bool:
    table = request.node.op_type == "Gather" and request.row.kernel == "DequantizeLinear"
    middle = request.weights.symmetric and request.weights.dtype.stored_bits == 8  # then it needs no zero points
    if not table or middle or Detour.SIGNED_TABLE in request.detours:
        return False
    return any(
        is_op(reader, "MatMul") and reader.inputs[0] is request.node.outputs[0] for reader in readers(request.node)
    )


def _meets_node(node: ir.Node, _: int) -> bool:
    first, second = (producer(node, slot) for slot in (0, 1)) if is_op(node, "MatMul") else (None, None)
    if first is None or second is None or not dequantizes(first) or not dequantizes(second):
        return False
    if dtype_of(first, 0) != "uint8" or not is_filled(first, 2):
        return False
    behind = readers(node)
    quantized = bool(behind) and all(reader.op_type == "QuantizeLinear" for reader in behind)  # an integer product
    return is_op(producer(first, 2), "Gather") and not quantized


def _cases() -> Iterator[Case]:
    import numpy as np

    rng = numbers()
    table, scale = rng.integers(0, 256, (6, 16)), rng.uniform(0.5, 1.5, (6, 1)).astype(np.float32)
    zero_point, weight, rows = rng.integers(0, 256, (6, 1)), rng.integers(-127, 128, (16, 8)), np.array([1, 3, 5])
    constants = (
        constant("t", table.astype(np.uint8)),
        constant("s", scale),
        constant("z", zero_point.astype(np.uint8)),
        constant("q", weight.astype(np.int8)),
        constant("ws", np.ones(8, np.float32)),
    )
    body = (
        "c = Gather (t, i) d = Gather (s, i) e = Gather (z, i) "
        "x = DequantizeLinear <axis = 1, block_size = 16> (c, d, e) "
        "w = DequantizeLinear <axis = 1> (q, ws) y = MatMul (x, w)"
    )
    right = ((table - zero_point) * scale.astype(np.float64))[rows] @ weight
    yield Case(text=model(body, "int64[3] i", "float[3,8]", *constants, opset=21), feeds={"i": rows}, right=right)


faults.add(
    "unsigned-table",
    Fault(
        name="unsigned-table",
        summary="rows of a uint8 table that have a zero point each, in front of a product of int8 weights, do not run",
        first="1.23.0",
        meets_request=_meets_request,
        meets_node=_meets_node,
        cases=_cases,
        instead=(Instead(text="the table is stored as int8", detour=Detour.SIGNED_TABLE),),
        advice="store the table as int8, or without zero points",
        reported="found here",
    ),
)
