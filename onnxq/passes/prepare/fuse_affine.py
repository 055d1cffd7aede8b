"""Fuse constant scales and offsets into the convolution before them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxq.graph.constants import constant_tensor
from onnxq.graph.walk import scopes
from onnxq.passes import register_pass

_Array = npt.NDArray[Any]


@register_pass("fuse-affine", preserves_semantics=True)
class FuseAffine(ir.passes.InPlacePass):
    """Fold Mul, Div, Add and Sub with a constant, one for all or one a channel, into the convolution that feeds them.

    a * (W x + b) + c = (a W) x + (a b + c), for each output channel, at the borders too. onnxruntime does the same to
    float models; in a quantized one each would cost a rounding and a kernel of its own.

    A weight that others read too, or that the caller may override, is left alone.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuse in all scopes, chains of them too."""
        modified = False
        if model.opset_imports.get("", 0) < 7:  # before, operands broadcast by an attribute
            return ir.passes.PassResult(model, modified=False)
        for scope in scopes(model):
            for node in scope:
                while node.op_type in ("Conv", "ConvTranspose") and not node.domain and _fuse(node):
                    modified = True
        return ir.passes.PassResult(model, modified=modified)


def _fuse(conv: ir.Node) -> bool:
    """Fold the one reader of `conv` into it; tell whether that could be done."""
    result = conv.outputs[0]
    readers = result.uses()
    if len(readers) != 1 or result.is_graph_output():
        return False
    ((reader, slot),) = readers
    weight, bias = _own_constant(conv, 1), _own_constant(conv, 2)
    if reader.graph is not conv.graph or weight is None or (bias is None and _has(conv, 2)):
        return False
    channels = weight.shape[0] if conv.op_type == "Conv" else weight.shape[1] * _group(conv)
    affine = _affine(reader, slot, channels, weight)
    if affine is None:
        return False
    scale, offset = affine
    old = np.zeros(channels) if bias is None else bias.astype(np.float64)
    fused = _scaled(conv, weight.astype(np.float64), scale).astype(weight.dtype)
    moved = (old * scale + offset).astype(weight.dtype)
    if not (np.all(np.isfinite(fused)) and np.all(np.isfinite(moved))):
        return False
    _set_constant(conv, 1, fused)
    _set_constant(conv, 2, moved)
    final = reader.outputs[0]
    ir.convenience.replace_all_uses_with(final, result, replace_graph_outputs=True)
    assert reader.graph is not None
    reader.graph.remove(reader, safe=True)
    result.name, result.shape, result.type = final.name, final.shape, final.type
    result.metadata_props.update(final.metadata_props)
    return True


def _affine(reader: ir.Node, slot: int, channels: int, weight: _Array) -> tuple[_Array, _Array] | None:
    """Return scale and offset (float64, shape (channels,)) that `reader` applies to its input `slot`, None if none."""
    if reader.op_type not in ("Add", "Div", "Mul", "Sub") or reader.domain or len(reader.inputs) != 2:
        return None
    tensor = constant_tensor(reader.inputs[1 - slot])
    if tensor is None:
        return None
    shape = (1,) * (weight.ndim - len(tensor.shape)) + tuple(tensor.shape.numpy())
    if len(shape) != weight.ndim or shape[1] not in (1, channels) or set(shape[:1] + shape[2:]) != {1}:
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


def _scaled(conv: ir.Node, weight: _Array, scale: _Array) -> _Array:
    """Return `weight`, (out, in / group, ...) or of ConvTranspose (in, out / group, ...), output channels scaled."""
    spatial = (1,) * (weight.ndim - 2)
    if conv.op_type == "Conv":
        return weight * scale.reshape(-1, 1, *spatial)
    group = _group(conv)
    by_group = weight.reshape(group, -1, *weight.shape[1:]) * scale.reshape(group, 1, -1, *spatial)
    return by_group.reshape(weight.shape)


def _group(conv: ir.Node) -> int:
    attribute = conv.attributes.get("group")
    return 1 if attribute is None else attribute.as_int()


def _has(node: ir.Node, slot: int) -> bool:
    return slot < len(node.inputs) and node.inputs[slot] is not None


def _own_constant(node: ir.Node, slot: int) -> _Array | None:
    """Return the float constant in an input slot that nothing else reads and that lives in the node's own scope."""
    value = node.inputs[slot] if _has(node, slot) else None
    tensor = constant_tensor(value)
    if value is None or tensor is None or not value.is_initializer() or value.is_graph_output():
        return None
    floats = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
    if value.graph is not node.graph or len(value.uses()) != 1 or tensor.dtype not in floats:
        return None
    return tensor.numpy()


def _set_constant(node: ir.Node, slot: int, array: _Array) -> None:
    """Give an input slot a new constant: the initializer there gets a new tensor, an empty slot a new initializer."""
    if _has(node, slot):
        value = node.inputs[slot]
        assert value is not None
        value.const_value = ir.tensor(array, name=value.name)
        return
    graph, weight = node.graph, node.inputs[1]
    assert isinstance(graph, ir.Graph)
    assert weight is not None
    value = ir.Value(
        name=f"{weight.name}_bias",
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        const_value=ir.tensor(array),
    )
    count = 1
    while value.name in graph.initializers:
        count += 1
        value.name = f"{weight.name}_bias_{count}"
    graph.register_initializer(value)
    node.resize_inputs(max(slot + 1, len(node.inputs)))
    node.replace_input_with(slot, value)
