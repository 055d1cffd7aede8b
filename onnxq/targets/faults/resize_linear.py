"""Resize of mode linear between Q/DQ: it runs in integers, and truncates instead of rounding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnxq.targets.faults import Case, Fault, faults
from onnxq.targets.faults._nodes import dequantizes, dtype_of, is_op, producer
from onnxq.targets.faults._texts import model

if TYPE_CHECKING:
    import onnx_ir as ir


def _meets_node(node: ir.Node, _: int) -> bool:
    if not is_op(node, "Resize") or node.attributes.get_string("mode", "nearest") == "nearest":
        return False
    return dequantizes(producer(node, 0)) or dtype_of(node, 0) in ("uint8", "int8")


def _cases() -> Iterator[Case]:
    import numpy as np

    body = (
        "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) "
        'r = Resize <mode = "linear", coordinate_transformation_mode = "asymmetric"> (d, , c) '
        "v = QuantizeLinear (r, s, z) y = DequantizeLinear (v, s, z)"
    )
    constants = "float s = {1.0}, uint8 z = {0}", "float[4] c = {1.0, 1.0, 1.0, 4.0}"
    yield Case(  # 0, 0.75, 1.5, 2.25, 3 ...
        text=model(body, "float[1,1,1,2] x", "float[1,1,1,8]", *constants, opset=13),
        feeds={"x": np.array([[[[0.0, 3.0]]]], np.float32)},
        right=np.array([[[[0.0, 1.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0]]]]),
    )


faults.add(
    "resize-linear",
    Fault(
        name="resize-linear",
        summary="Resize of mode linear on 8 bits cuts off instead of rounding: half a step too little on average",
        first="1.23.0",
        last="1.26",
        meets_node=_meets_node,
        cases=_cases,
        advice="leave Resize in float (onnxq does), or take a newer onnxruntime",
        reported="https://github.com/microsoft/onnxruntime/issues/21319",
    ),
)
