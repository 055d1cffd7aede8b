"""The same cause on ARM: there the runtime ends while it loads such a model, with and without zero points."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxq.targets.faults import Fault, Instead, WriteRequest, faults
from onnxq.targets.faults._nodes import is_op, reads_outside
from onnxq.types.accuracy import EXACT, ROUNDS
from onnxq.types.plan import Detour

if TYPE_CHECKING:
    import onnx_ir as ir


def _meets_request(request: WriteRequest) -> bool:
    product = request.row.kernel == "MatMulNBits" and request.accuracy_level == ROUNDS
    return product and Detour.OWN_CODES not in request.detours and reads_outside(request.node, request.slots[0])


def _meets_node(node: ir.Node, _: int) -> bool:
    level = node.attributes.get_int("accuracy_level", 0)
    return is_op(node, "MatMulNBits", domain="com.microsoft") and level == ROUNDS and reads_outside(node, 2)


faults.add(
    "nbits-in-body-arm",
    Fault(
        name="nbits-in-body-arm",
        summary="a model with MatMulNBits in a body and its codes in an outer scope ends the process that loads it",
        first="1.23.0",
        last="1.28",
        targets=frozenset({"cpu-arm64"}),
        meets_request=_meets_request,
        meets_node=_meets_node,
        instead=(
            Instead(text="its codes lie in the body itself", detour=Detour.OWN_CODES),
            Instead(text="its inputs not rounded", accuracy_level=EXACT),
        ),
        advice="put codes and scales into the body, or take a newer onnxruntime",
        reported="https://github.com/microsoft/onnxruntime/issues/31137",
    ),
)
