"""Gemm between Q/DQ whose weight has a scale for each channel and no zero point."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnxq.targets.faults import Case, Fault, faults
from onnxq.targets.faults._nodes import dequantizes, is_filled, is_op, producer
from onnxq.targets.faults._texts import constant, model

if TYPE_CHECKING:
    import onnx_ir as ir


def _meets_node(node: ir.Node, _: int) -> bool:
    weight = producer(node, 1) if is_op(node, "Gemm") else None
    if weight is None or not dequantizes(weight) or not dequantizes(producer(node, 0)):
        return False
    shape = None if weight.inputs[1] is None else weight.inputs[1].shape
    return not is_filled(weight, 2) and shape is not None and len(shape) == 1


def _cases() -> Iterator[Case]:
    import numpy as np

    one = "float xs = {1.0}, uint8 xz = {0}"
    constants = constant("q", np.ones((16, 4), np.int8)), constant("s", np.ones(4, np.float32))
    bias = constant("bq", np.zeros(4, np.int32))
    body = (
        "u = QuantizeLinear (x, xs, xz) d = DequantizeLinear (u, xs, xz) w = DequantizeLinear <axis = 1> (q, s) "
        "b = DequantizeLinear <axis = 0> (bq, s) f = Gemm (d, w, b) v = QuantizeLinear (f, xs, xz) "
        "y = DequantizeLinear (v, xs, xz)"
    )
    text = model(body, "float[2,16] x", "float[2,4]", one, *constants, bias)
    yield Case(text=text, feeds={"x": np.ones((2, 16), np.float32)}, right=np.full((2, 4), 16.0))


faults.add(
    "gemm-without-zero-point",
    Fault(
        name="gemm-without-zero-point",
        summary="a Gemm that becomes QGemm does not run where its weight has scales by channel and no zero points",
        first="1.23.0",
        last="1.27",
        meets_node=_meets_node,
        cases=_cases,
        advice="give the weight's DequantizeLinear zero points of 0; quantized again by onnxq it has them",
        reported="found here",
    ),
)
