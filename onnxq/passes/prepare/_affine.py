"""What the passes for constant scales and offsets share: reading them, and changing a convolution's constants."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxq.graph.constants import add_constant, constant_tensor
from onnxq.graph.walk import input_at

Array = npt.NDArray[Any]


def affine(reader: ir.Node, slot: int, channels: int, rank: int) -> tuple[Array, Array] | None:
    """Return scale and offset (float64, shape (channels,)) that `reader` applies to its input `slot`, None if none.

    Args:
        reader: any node.
        slot: of the input that is scaled.
        channels: extent of that input's axis 1.
        rank: its rank.
    """
    if reader.op_type not in ("Add", "Div", "Mul", "Sub") or reader.domain or len(reader.inputs) != 2:
        return None
    tensor = constant_tensor(reader.inputs[1 - slot])
    if tensor is None:
        return None
    shape = (1,) * (rank - len(tensor.shape)) + tuple(tensor.shape.numpy())
    if len(shape) != rank or shape[1] not in (1, channels) or set(shape[:1] + shape[2:]) != {1}:
        return None
    constant = np.broadcast_to(tensor.numpy().astype(np.float64).ravel(), channels)
    one, zero = np.ones(channels), np.zeros(channels)
    match reader.op_type, slot:
        case "Mul", _:
            return constant, zero
        case "Add", _:
            return one, constant
        case "Sub", 0:
            return one, -constant
        case "Sub", 1:
            return -one, constant
        case "Div", 0 if np.all(constant != 0):
            return one / constant, zero
    return None


def group(conv: ir.Node) -> int:
    """Return a convolution's number of groups."""
    attribute = conv.attributes.get("group")
    return 1 if attribute is None else attribute.as_int()


def own_constant(node: ir.Node, slot: int) -> Array | None:
    """Return the float constant in an input slot that nothing else reads and that lives in the node's own scope."""
    value = input_at(node, slot)
    tensor = constant_tensor(value)
    if value is None or tensor is None or not value.is_initializer() or value.is_graph_output():
        return None
    floats = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
    if value.graph is not node.graph or len(value.uses()) != 1 or tensor.dtype not in floats:
        return None
    return tensor.numpy()


def set_constant(node: ir.Node, slot: int, array: Array) -> None:
    """Give an input slot a new constant: the initializer there gets a new tensor, an empty slot a new initializer."""
    value = input_at(node, slot)
    if value is not None:
        value.const_value = ir.tensor(array, name=value.name)
        return
    graph, weight = node.graph, node.inputs[1]
    assert isinstance(graph, ir.Graph)
    assert weight is not None
    node.resize_inputs(max(slot + 1, len(node.inputs)))
    node.replace_input_with(slot, add_constant(graph, f"{weight.name}_bias", array))
