"""Properties of nodes that conditions of faults use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxq.graph.constants import constant_tensor
from onnxq.graph.walk import input_at

if TYPE_CHECKING:
    import onnx_ir as ir


def producer(node: ir.Node, slot: int) -> ir.Node | None:
    """Return the node that computes an input, None if none does."""
    value = input_at(node, slot)
    return None if value is None else value.producer()


def readers(node: ir.Node) -> list[ir.Node]:
    """Return the nodes that read its outputs."""
    return [use.node for output in node.outputs for use in output.uses()]


def is_op(node: ir.Node | None, *op_types: str, domain: str = "") -> bool:
    """Return whether there is a node, of one of these types in a domain."""
    return node is not None and node.domain == domain and node.op_type in op_types


def dequantizes(node: ir.Node | None) -> bool:
    """Return whether a node is a DequantizeLinear, the standard's or onnxruntime's own."""
    return node is not None and node.op_type == "DequantizeLinear"


def is_filled(node: ir.Node, slot: int) -> bool:
    """Return whether a node has an input in a slot."""
    return input_at(node, slot) is not None


def is_constant(node: ir.Node, slot: int) -> bool:
    """Return whether an input is a constant."""
    return constant_tensor(input_at(node, slot)) is not None


def reads_outside(node: ir.Node, slot: int) -> bool:
    """Return whether an input is a constant of another scope than the node's own."""
    value = input_at(node, slot)
    if value is None or constant_tensor(value) is None:
        return False
    source = value.producer()
    return (value.graph if source is None else source.graph) is not node.graph


def dtype_of(node: ir.Node, slot: int) -> str:
    """Return the type of an input in lower case; empty if there is none or it is unknown."""
    value = input_at(node, slot)
    return "" if value is None or value.dtype is None else value.dtype.name.lower()
