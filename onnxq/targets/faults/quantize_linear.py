"""Opsets whose QuantizeLinear and DequantizeLinear a runtime lacks, though it loads models of that opset."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnxq.targets.faults import Case, Fault, Instead, WriteRequest, faults
from onnxq.targets.faults._nodes import is_op
from onnxq.targets.faults._texts import model
from onnxq.types.format import Format
from onnxq.types.plan import Detour
from onnxq.types.scheme import PerTensor, QuantType

if TYPE_CHECKING:
    import onnx_ir as ir


def _missing(opset: int, until: int, *, first: str, last: str) -> Fault:
    """Return the fault of runtimes that lack both for models of `opset` up to below `until`.

    Args:
        opset: that defines them.
        until: the next opset that defines them.
        first: as for `Fault`.
        last: as for `Fault`.
    """

    def _meets_request(request: WriteRequest) -> bool:
        if not opset <= request.opset < until or Detour.CONTRIB_LINEAR in request.detours:
            return False
        if request.row.formats & {Format.QDQ, Format.QOPERATOR} or request.row.kernel == "DequantizeLinear":
            return True
        # At run time DynamicQuantizeLinear serves uint8 with zero points; rows on scales of their own need neither.
        one_scale = isinstance(request.activations.granularity, PerTensor)
        usual = request.activations.dtype is QuantType.UINT8 and not request.activations.symmetric
        lookup = request.node.op_type == "Gather" and isinstance(request.weights.granularity, PerTensor)
        return Format.DYNAMIC in request.row.formats and ((one_scale and not usual) or lookup)

    def _meets_node(node: ir.Node, imported: int) -> bool:
        return opset <= imported < until and is_op(node, "QuantizeLinear", "DequantizeLinear")

    def cases() -> Iterator[Case]:
        import numpy as np

        x = np.array([[-1.0, 0.0, 2.0]], np.float32)
        body = "q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z)"
        text = model(body, "float[1,3] x", "float[1,3]", "float s = {1.0}, int8 z = {0}", opset=opset)
        yield Case(text=text, feeds={"x": x}, right=x)

    name = f"no-quantize-linear-{opset}"
    return Fault(
        name=name,
        summary=f"QuantizeLinear and DequantizeLinear of opset {opset} are missing",
        first=first,
        last=last,
        meets_request=_meets_request,
        meets_node=_meets_node,
        cases=cases,
        instead=(Instead(text="between those of com.microsoft", detour=Detour.CONTRIB_LINEAR, portable=False),),
        advice=f"bring the model to an opset below {opset}, or leave `portable` out",
        reported="found here",
    )


for _fault in (_missing(23, 24, first="1.23.0", last="1.23"), _missing(28, 1000, first="1.23.0", last="")):
    faults.add(_fault.name, _fault)
