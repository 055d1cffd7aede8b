"""Which nodes are parts of a model that is quantized already: they are kept as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxq.graph.linear import DEQUANTIZE, QUANTIZE
from onnxq.graph.node_marks import is_unpacking
from onnxq.ops import op_key
from onnxq.ops.quantized import works_on_codes

if TYPE_CHECKING:
    import onnx_ir as ir


def is_quantized(node: ir.Node) -> str | None:
    """Return why a node counts as quantized already, None if it does not: it is an integer operator itself."""
    if is_unpacking(node):
        return "unpacks a constant that is stored in fewer bits already"
    if works_on_codes(node):
        return "is quantized already"
    uses = [use for output in node.outputs for use in output.uses()]
    if uses and all(op_key(use.node) in DEQUANTIZE and use.idx > 0 for use in uses):
        return "picks the scales of codes that are dequantized behind it"
    return None


def is_between(node: ir.Node, *, weight: int | None = None) -> str | None:
    """Return why a node counts as quantized already, None if it does not: it stands between Q and DQ.

    Args:
        node: the node. weight: slot that alone is looked at; None for all inputs, and what reads its output.
    """
    slots = range(len(node.inputs)) if weight is None else (weight,)
    for value in (node.inputs[slot] for slot in slots if slot < len(node.inputs)):
        producer = None if value is None else value.producer()
        if value is not None and producer is not None and op_key(producer) in DEQUANTIZE:
            return f"its input '{value.name}' is dequantized already: nothing is quantized twice"
    readers = [use.node for output in node.outputs for use in output.uses()]
    if weight is None and readers and all(op_key(reader) in QUANTIZE for reader in readers):
        return "its output is quantized already: nothing is quantized twice"
    return None
