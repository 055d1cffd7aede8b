"""Marks on nodes, kept in a model's metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

_UNPACKS = "onnxq.unpacks"
_EQUALIZES = "onnxq.equalizes"
_ACCURACY = "onnxq.accuracy_level"


def mark_unpacking(node: ir.Node) -> None:
    """Mark a node that unpacks a stored constant: computing it beforehand would undo what it is stored that way for."""
    node.metadata_props[_UNPACKS] = "true"


def is_unpacking(node: ir.Node) -> bool:
    """Return whether a node is marked so."""
    return _UNPACKS in node.metadata_props


def mark_equalizing(node: ir.Node, method: str) -> None:
    """Mark a node that scales a tensor so that its codes are finer: quantized itself it would gain nothing."""
    node.metadata_props[_EQUALIZES] = method


def equalizing(node: ir.Node) -> str | None:
    """Return the method that put a node there to scale a tensor, None for other nodes."""
    return node.metadata_props.get(_EQUALIZES)


def mark_accuracy(node: ir.Node, level: int) -> None:
    """Note the accuracy level of the MatMulNBits that a node is written in the place of."""
    node.metadata_props[_ACCURACY] = str(level)


def marked_accuracy(node: ir.Node) -> int | None:
    """Return the accuracy level noted at a node, 0 to 4; None if none is."""
    text = node.metadata_props.get(_ACCURACY, "")
    return int(text) if text in ("0", "1", "2", "3", "4") else None
