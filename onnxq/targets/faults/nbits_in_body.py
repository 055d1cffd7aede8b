"""MatMulNBits in a body, whose zero points are initializers of an outer scope.

Only the accuracy level that rounds activations packs weights, and it loses zero points from outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnxq.targets.faults import Case, Fault, Instead, WriteRequest, faults
from onnxq.targets.faults._nodes import is_filled, is_op, reads_outside
from onnxq.targets.faults._texts import branch, constant, model, numbers
from onnxq.types.accuracy import EXACT, ROUNDS
from onnxq.types.plan import Detour

if TYPE_CHECKING:
    import onnx_ir as ir


def _meets_request(request: WriteRequest) -> bool:
    """Return whether MatMulNBits would read zero points from outside its body."""
    product = request.row.kernel == "MatMulNBits" and request.accuracy_level == ROUNDS and not request.weights.symmetric
    return product and Detour.OWN_CODES not in request.detours and reads_outside(request.node, request.slots[0])


def _meets_node(node: ir.Node, _: int) -> bool:
    """Return whether a node is such a product."""
    if not is_op(node, "MatMulNBits", domain="com.microsoft") or node.attributes.get_int("accuracy_level", 0) != ROUNDS:
        return False
    return is_filled(node, 3) and reads_outside(node, 3) and node.attributes.get_int("block_size", 0) > 16


def cases() -> Iterator[Case]:
    """Yield 4 bits in blocks of several sizes: which of them go wrong differs from kernel to kernel."""
    import numpy as np

    rng = numbers()
    for block in (32, 64, 128):
        width = 2 * block
        codes, zero_points = rng.integers(0, 16, (8, 2, block)), rng.integers(0, 16, (8, 2))
        scale = rng.uniform(0.5, 1.5, (8, 2)).astype(np.float32)
        x = rng.standard_normal((4, width)).astype(np.float32)
        weight = ((codes - zero_points[..., None]) * scale.astype(np.float64)[..., None]).reshape(8, width)
        packed = (codes[..., 0::2] | codes[..., 1::2] << 4).astype(np.uint8)
        both = (zero_points[:, 0:1] | zero_points[:, 1:2] << 4).astype(np.uint8)
        attributes = f"K = {width}, N = 8, bits = 4, block_size = {block}, accuracy_level = {ROUNDS}"
        constants = (
            constant("q", packed),
            constant("s", scale),
            constant("z", both),
            constant("o", np.zeros((4, 8), "f")),
        )
        product = f"a = com.microsoft.MatMulNBits <{attributes}> (x, q, s, z)"
        body = branch(product, "float[4,8]", zero="Identity (o)")
        text = model(body, f"bool c, float[4,{width}] x", "float[4,8]", *constants)
        yield Case(text=text, feeds={"c": np.array(True), "x": x}, right=x.astype(np.float64) @ weight.T, error=0.05)


faults.add(
    "nbits-in-body",
    Fault(
        name="nbits-in-body",
        summary="MatMulNBits in a body is computed with wrong zero points where they lie in an outer scope",
        first="1.23.0",
        last="1.28",
        meets_request=_meets_request,
        meets_node=_meets_node,
        cases=cases,
        instead=(
            Instead(text="its codes lie in the body itself", detour=Detour.OWN_CODES),
            Instead(text="without zero points", symmetric=True),
            Instead(text="its inputs not rounded", accuracy_level=EXACT),
        ),
        advice="put codes, scales and zero points into the body, or take a newer onnxruntime",
        reported="found here; https://github.com/microsoft/onnxruntime/issues/31137 has the cause",
    ),
)
