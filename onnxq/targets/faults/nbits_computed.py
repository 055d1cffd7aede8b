"""MatMulNBits whose scales or zero points are computed, or inputs of the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnxq.targets.faults import Case, Fault, faults
from onnxq.targets.faults._nodes import is_constant, is_filled, is_op
from onnxq.targets.faults._texts import constant, model, numbers
from onnxq.types.accuracy import EXACT, ROUNDS

if TYPE_CHECKING:
    import onnx_ir as ir


def _meets_node(node: ir.Node, _: int) -> bool:
    level = node.attributes.get_int("accuracy_level", 0)
    if not is_op(node, "MatMulNBits", domain="com.microsoft") or level != ROUNDS or not is_constant(node, 1):
        return False
    return any(is_filled(node, slot) and not is_constant(node, slot) for slot in (2, 3))


def _cases() -> Iterator[Case]:
    import numpy as np

    rng = numbers()
    codes, zero_points = rng.integers(0, 256, (8, 2, 32)), rng.integers(0, 256, (8, 2)).astype(np.uint8)
    scale, x = rng.uniform(0.5, 1.5, (8, 2)).astype(np.float32), rng.standard_normal((4, 64)).astype(np.float32)
    weight = ((codes - zero_points[..., None].astype(int)) * scale.astype(np.float64)[..., None]).reshape(8, 64)
    attributes = f"K = 64, N = 8, bits = 8, block_size = 32, accuracy_level = {ROUNDS}"
    body = f"y = com.microsoft.MatMulNBits <{attributes}> (x, q, s, z)"
    right, weights = x.astype(np.float64) @ weight.T, constant("q", codes.astype(np.uint8))
    text = model(body, "float[4,64] x, uint8[8,2] z", "float[4,8]", weights, constant("s", scale))
    yield Case(text=text, feeds={"x": x, "z": zero_points}, right=right, error=0.05)
    text = model(body, "float[4,64] x, float[8,2] s", "float[4,8]", weights, constant("z", zero_points))
    yield Case(text=text, feeds={"x": x, "s": scale}, right=right, error=0.05)


faults.add(
    "nbits-computed",
    Fault(
        name="nbits-computed",
        summary=f"MatMulNBits at accuracy level {ROUNDS} goes wrong where its scales or zero points are not constants",
        first="1.23.0",
        meets_node=_meets_node,
        cases=_cases,
        advice=f"make them initializers, or set accuracy_level to {EXACT}",
        reported="found here",
    ),
)
