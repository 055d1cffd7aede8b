"""Push constant scales and offsets into the convolutions behind them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxq.graph.constants import add_constant, constant_tensor
from onnxq.graph.walk import input_at, scopes
from onnxq.passes import register_pass
from onnxq.passes.prepare._affine import Array, affine, group, own_constant, set_constant


@register_pass("push-affine", preserves_semantics=True)
class PushAffine(ir.passes.InPlacePass):
    """Fold Mul, Div, Add and Sub with a constant, one for all or one a channel, into the convolutions that read them.

    W (a x + c) + b = (W a) x + (b + W c), for each input channel. Padding is zero before and after scaling, so that a
    scale always goes; an offset goes only where nothing is padded. Where an offset has to stay between a scale and the
    convolutions, a x + c = a (x + c / a), and the scale goes alone.

    Networks with learnable scales behind their activations (PP-OCR) have one at every convolution, where
    onnxruntime runs them, and a quantized model runs them in float between two integer kernels.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Push in all scopes, chains of them too."""
        modified = False
        if model.opset_imports.get("", 0) < 7:  # before, operands broadcast by an attribute
            return ir.passes.PassResult(model, modified=False)
        for scope in scopes(model):
            for node in reversed(list(scope)):  # what stands last is the first to go
                modified = _push(node) or modified
        return ir.passes.PassResult(model, modified=modified)


def _push(node: ir.Node) -> bool:
    """Fold a node into all that reads it; return whether that could be done."""
    source = next((slot for slot, value in enumerate(node.inputs) if constant_tensor(value) is None), None)
    result = node.outputs[0] if node.outputs else None
    if source is None or result is None or result.is_graph_output() or not result.uses():
        return False
    between = _offset_behind(node, result)
    convs = _convolutions(result if between is None else between.outputs[0])
    if not convs:
        return False
    constants = _channels_of(node, source, convs)
    if constants is None:
        return False
    scale, offset = constants
    if np.any(scale == 0) or (np.any(offset) and (between is not None or any(_pads(conv) for conv in convs))):
        return False
    changes = [_changed(conv, scale, offset) for conv in convs]
    constant = None if between is None else _divided(between, result, scale)
    if any(change is None for change in changes) or (between is not None and constant is None):
        return False
    for conv, change in zip(convs, changes, strict=True):
        assert change is not None
        weight, bias = change
        set_constant(conv, 1, weight)
        if bias is not None:
            set_constant(conv, 2, bias)
    if between is not None:
        assert constant is not None
        assert isinstance(node.graph, ir.Graph)
        named = f"{between.outputs[0].name}_offset"
        between.replace_input_with(_beside(between, result), add_constant(node.graph, named, constant))
    kept = node.inputs[source]
    assert kept is not None
    assert node.graph is not None
    ir.convenience.replace_all_uses_with(result, kept)
    node.graph.remove(node, safe=True)
    return True


def _offset_behind(node: ir.Node, result: ir.Value) -> ir.Node | None:
    """Return the one reader of a scale if it adds a constant."""
    uses = result.uses()
    if node.op_type not in ("Mul", "Div") or len(uses) != 1:
        return None
    ((reader, slot),) = uses
    if reader.graph is not node.graph or reader.domain or reader.outputs[0].is_graph_output():
        return None
    plain = reader.op_type == "Add" or (reader.op_type == "Sub" and slot == 0)
    return reader if plain and constant_tensor(reader.inputs[1 - slot]) is not None else None


def _convolutions(value: ir.Value) -> list[ir.Node]:
    """Return all readers of a value if they are convolutions whose constants may change, [] otherwise."""
    convs = []
    for reader, slot in value.uses():
        if reader.op_type != "Conv" or reader.domain or slot != 0 or reader.graph is not value.graph:
            return []
        if own_constant(reader, 1) is None or (input_at(reader, 2) is not None and own_constant(reader, 2) is None):
            return []
        convs.append(reader)
    return convs


def _channels_of(node: ir.Node, source: int, convs: list[ir.Node]) -> tuple[Array, Array] | None:
    """Return scale and offset of each channel that the convolutions read, None if it does neither."""
    shapes = []
    for conv in convs:
        weight = own_constant(conv, 1)
        assert weight is not None
        shapes.append((weight.shape[1] * group(conv), weight.ndim))
    channels, rank = shapes[0]
    if len(set(shapes)) != 1 or not _keeps_shape(node, source, channels, rank):
        return None
    return affine(node, source, channels, rank)


def _keeps_shape(node: ir.Node, source: int, channels: int, rank: int) -> bool:
    """Return whether a result has the shape of what is scaled: a constant may repeat that along axes of extent 1."""
    value, constant = node.inputs[source], constant_tensor(node.inputs[1 - source]) if len(node.inputs) == 2 else None
    if value is None or constant is None:
        return False
    if constant.size == 1 and len(constant.shape) <= 1:
        return True
    return value.shape is not None and len(value.shape) == rank and (constant.size == 1 or value.shape[1] == channels)


def _changed(conv: ir.Node, scale: Array, offset: Array) -> tuple[Array, Array | None] | None:
    """Return the constants of a convolution that scales its input by itself; None if they would not be finite."""
    weight, bias = own_constant(conv, 1), own_constant(conv, 2)
    assert weight is not None
    groups = group(conv)
    # Axis 0 of a weight runs over the groups' output channels, axis 1 over the input channels of one group.
    by_group = weight.astype(np.float64).reshape(groups, -1, *weight.shape[1:])
    spatial = (1,) * (weight.ndim - 2)
    scaled = (by_group * scale.reshape(groups, 1, -1, *spatial)).reshape(weight.shape)
    added = (by_group * offset.reshape(groups, 1, -1, *spatial)).reshape(weight.shape[0], -1).sum(axis=1)
    moved = None
    with np.errstate(over="ignore"):
        fused = scaled.astype(weight.dtype)
        if np.any(added):
            moved = (added if bias is None else bias.astype(np.float64) + added).astype(weight.dtype)
    finite = np.all(np.isfinite(fused)) and (moved is None or np.all(np.isfinite(moved)))
    return (fused, moved) if finite else None


def _pads(conv: ir.Node) -> bool:
    """Return whether a convolution may read zeros that are not in its input."""
    automatic, pads = conv.attributes.get("auto_pad"), conv.attributes.get("pads")
    if automatic is not None and automatic.as_string() not in ("NOTSET", "VALID"):
        return True
    return pads is not None and any(pads.as_ints())


def _divided(between: ir.Node, result: ir.Value, scale: Array) -> Array | None:
    """Return the constant of an offset behind a scale as it is before the scale, None if absent."""
    tensor = constant_tensor(between.inputs[_beside(between, result)])
    if tensor is None or tensor.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
        return None
    old = tensor.numpy()
    if len(set(scale.tolist())) != 1:
        return None
    divided = (old.astype(np.float64) / scale[0]).astype(old.dtype)
    return divided if np.all(np.isfinite(divided)) else None


def _beside(node: ir.Node, value: ir.Value) -> int:
    """Return the slot of a node of two inputs that does not hold the value."""
    return 1 if node.inputs[0] is value else 0
