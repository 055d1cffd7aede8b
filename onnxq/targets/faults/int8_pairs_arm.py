"""int8 by int8 on ARM without dot product: two products of -128 by -128 do not fit the 16 bits they are added in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnxq.graph.constants import constant_tensor
from onnxq.graph.tensors import drop_pages
from onnxq.ops.quantized import quantized_operator
from onnxq.targets.faults import Fault, Instead, WriteRequest, faults
from onnxq.targets.faults._nodes import dequantizes, producer
from onnxq.types.format import Format
from onnxq.types.scheme import QuantType

if TYPE_CHECKING:
    import onnx_ir as ir

_OPERATORS = ("MatMul", "Gemm", "Conv")
_LOWEST = -128


def _meets_request(request: WriteRequest) -> bool:
    signed = (
        request.node.op_type in _OPERATORS and bool(request.row.activations) and request.weights.dtype is QuantType.INT8
    )
    if not signed or not request.slots:
        return False
    if request.lowest_code is not None:
        return request.lowest_code() == _LOWEST
    return not (request.weights.symmetric and request.weights.narrow)


def _meets_node(node: ir.Node, _: int) -> bool:
    return any(_holds_lowest(value) for value in _weights(node))


def _weights(node: ir.Node) -> Iterator[ir.Value | None]:
    """Yield the codes of the weights that a node multiplies."""
    operator = quantized_operator(node)
    if operator is not None and operator.float_op != "LSTM" and Format.WEIGHT_ONLY not in operator.formats:
        yield from (node.inputs[slot] for slot in operator.weight_slots if slot < len(node.inputs))
    elif node.op_type in _OPERATORS and not node.domain and dequantizes(producer(node, 0)):
        weight = producer(node, 1)
        yield weight.inputs[0] if weight is not None and dequantizes(weight) else None


def _holds_lowest(codes: ir.Value | None) -> bool:
    tensor = constant_tensor(codes)
    if tensor is None or tensor.dtype.name != "INT8":
        return False
    stored = tensor.numpy()
    holds = bool(stored.size) and int(stored.min()) == _LOWEST
    drop_pages(stored)
    return holds


faults.add(
    "int8-pairs-arm",
    Fault(
        name="int8-pairs-arm",
        summary="int8 products wrap on ARM without dot product where codes of -128 meet",
        first="1.23.0",
        targets=frozenset({"cpu-arm64"}),
        meets_request=_meets_request,
        meets_node=_meets_node,
        instead=(Instead(text="no code of its weights is -128", symmetric=True, narrow=True),),
        advice="choose weights without the code -128: symmetric, `narrow: true`",
        reported="https://github.com/microsoft/onnxruntime/issues/31573",
    ),
)
