"""DequantizeLinear in a body, of codes of an outer scope, in front of a product."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnxq.targets.faults import Case, Fault, Instead, WriteRequest, faults
from onnxq.targets.faults._nodes import dequantizes, is_op, producer, reads_outside
from onnxq.targets.faults._texts import branch, constant, model
from onnxq.types.format import Format
from onnxq.types.plan import Detour

if TYPE_CHECKING:
    import onnx_ir as ir

_PRODUCTS = ("MatMul", "Gemm")


def _meets_request(request: WriteRequest) -> bool:
    product = request.node.op_type in _PRODUCTS and request.row.kernel == "DequantizeLinear"
    outside = Format.WEIGHT_ONLY in request.row.formats and reads_outside(request.node, 1)
    return product and outside and Detour.OWN_CODES not in request.detours


def _meets_node(node: ir.Node, _: int) -> bool:
    weight = producer(node, 1) if is_op(node, *_PRODUCTS) else None
    if weight is None or not dequantizes(weight) or dequantizes(producer(node, 0)):
        return False
    return reads_outside(weight, 0)


def _cases() -> Iterator[Case]:
    """Yield 8 bits and 4 bits: versions before 1.24 fuse only the latter."""
    import numpy as np

    x = np.ones((2, 32), np.float32)
    scale, zero = constant("s", np.ones((1, 4), np.float32)), constant("o", np.zeros((2, 4), np.float32))
    product = "w = DequantizeLinear <axis = 0, block_size = 32> (q, s) a = MatMul (x, w)"
    for kind in ("int8", "int4"):
        stored = 128 if kind == "int8" else 64
        fill = "1" if kind == "int8" else "17"  # two codes of 1 in a byte
        codes = f"{kind}[32,4] q = {{{', '.join([fill] * stored)}}}"
        body = branch(product, "float[2,4]", zero="Identity (o)")
        text = model(body, "bool c, float[2,32] x", "float[2,4]", codes, scale, zero, opset=21)
        yield Case(text=text, feeds={"c": np.array(True), "x": x}, right=np.full((2, 4), 32.0))


faults.add(
    "dequantize-in-body",
    Fault(
        name="dequantize-in-body",
        summary="a product in a body does not load where its DequantizeLinear reads codes of an outer scope",
        first="1.23.0",
        meets_request=_meets_request,
        meets_node=_meets_node,
        cases=_cases,
        instead=(Instead(text="its codes lie in the body itself", detour=Detour.OWN_CODES),),
        advice="put codes and scales into the body",
        reported="found here",
    ),
)
