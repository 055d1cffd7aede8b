"""Softmax between Q/DQ: QLinearSoftmax truncates instead of rounding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnxq.targets.faults import Case, Fault, faults
from onnxq.targets.faults._nodes import dequantizes, is_op, producer, readers
from onnxq.targets.faults._texts import constant, model, numbers

if TYPE_CHECKING:
    import onnx_ir as ir


def _meets_node(node: ir.Node, _: int) -> bool:
    if is_op(node, "QLinearSoftmax", domain="com.microsoft"):
        return True
    quantized = any(reader.op_type == "QuantizeLinear" for reader in readers(node))
    return is_op(node, "Softmax") and quantized and dequantizes(producer(node, 0))


def _cases() -> Iterator[Case]:
    """Yield inputs that are codes, so that only the result is rounded; its scale is not 1/256, which is exact."""
    import numpy as np

    codes = numbers().integers(0, 256, (64, 16))
    scales = (
        constant("s", np.array(1 / 16, "f")),
        "uint8 z = {0}",
        constant("t", np.array(1 / 255, "f")),
        "uint8 o = {0}",
    )
    body = (
        "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) r = Softmax (d) v = QuantizeLinear (r, t, o) "
        "y = DequantizeLinear (v, t, o)"
    )
    x = codes / 16
    e = np.exp(x)
    right = np.rint(e / e.sum(1, keepdims=True) * 255) / 255
    text, feeds = model(body, "float[64,16] x", "float[64,16]", *scales), {"x": x.astype(np.float32)}
    yield Case(text=text, feeds=feeds, right=right, error=0.001)


faults.add(
    "softmax-rounding",
    Fault(
        name="softmax-rounding",
        summary="QLinearSoftmax cuts off where the graph rounds, up to 2 dB at outputs of 40 dB",
        first="1.23.0",
        meets_node=_meets_node,
        cases=_cases,
        slight=True,
        advice="keep Softmax in float where that matters: `--keep Softmax`",
        reported="found here; of other operators: https://github.com/microsoft/onnxruntime/issues/32132",
    ),
)
