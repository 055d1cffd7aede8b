"""Marks on nodes, kept in a model's metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

_UNPACKS = "onnxq.unpacks"
_EQUALIZES = "onnxq.equalizes"


def mark_unpacking(node: ir.Node) -> None:
    """Mark a node that unpacks a stored constant: computing it beforehand would undo what it is stored that way for."""
    node.metadata_props[_UNPACKS] = "true"


def is_unpacking(node: ir.Node) -> bool:
    """Tell whether a node is marked so."""
    return _UNPACKS in node.metadata_props


def mark_equalizing(node: ir.Node, method: str) -> None:
    """Mark a node that scales a tensor so that its codes are finer: on codes itself it would gain nothing."""
    node.metadata_props[_EQUALIZES] = method


def equalizing(node: ir.Node) -> str | None:
    """Return the method that put a node there to scale a tensor, None for other nodes."""
    return node.metadata_props.get(_EQUALIZES)
