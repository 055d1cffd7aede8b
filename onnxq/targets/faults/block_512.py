"""MatMulNBits in blocks of 512."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnxq.targets.faults import Case, Fault, faults
from onnxq.targets.faults._nodes import is_op
from onnxq.targets.faults._texts import constant, model, numbers
from onnxq.types.accuracy import ROUNDS

if TYPE_CHECKING:
    import onnx_ir as ir


def _meets_node(node: ir.Node, _: int) -> bool:
    return is_op(node, "MatMulNBits", domain="com.microsoft") and node.attributes.get_int("block_size", 0) > 256


def _cases() -> Iterator[Case]:
    import numpy as np

    rng = numbers()
    codes, x = rng.integers(0, 256, (4, 1, 512)), rng.standard_normal((2, 512)).astype(np.float32)
    constants = constant("q", codes.astype(np.uint8)), constant("s", np.ones((4, 1), np.float32))
    attributes = f"K = 512, N = 4, bits = 8, block_size = 512, accuracy_level = {ROUNDS}"
    body = f"y = com.microsoft.MatMulNBits <{attributes}> (x, q, s)"
    right = x.astype(np.float64) @ (codes.reshape(4, 512) - 128.0).T
    yield Case(text=model(body, "float[2,512] x", "float[2,4]", *constants), feeds={"x": x}, right=right, error=0.05)


faults.add(
    "block-512",
    Fault(
        name="block-512",
        summary="MatMulNBits in blocks of 512 computes nonsense or does not load",
        first="1.23.0",
        last="1.31",
        meets_node=_meets_node,
        cases=_cases,
        advice="take blocks of 256 or less, or a newer onnxruntime",
        reported="https://github.com/microsoft/onnxruntime/issues/28551",
    ),
)
