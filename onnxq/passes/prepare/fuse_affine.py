"""Fuse constant scales and offsets into the convolution before them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxq.graph.walk import input_at, scopes
from onnxq.passes import register_pass
from onnxq.passes.prepare._affine import Array, affine, group, own_constant, set_constant


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
    """Fold the one reader of `conv` into it; return whether that could be done."""
    result = conv.outputs[0]
    readers = result.uses()
    if len(readers) != 1 or result.is_graph_output():
        return False
    ((reader, slot),) = readers
    weight, bias = own_constant(conv, 1), own_constant(conv, 2)
    if reader.graph is not conv.graph or weight is None or (bias is None and input_at(conv, 2) is not None):
        return False
    channels = weight.shape[0] if conv.op_type == "Conv" else weight.shape[1] * group(conv)
    constants = affine(reader, slot, channels, weight.ndim)
    if constants is None:
        return False
    scale, offset = constants
    old = np.zeros(channels) if bias is None else bias.astype(np.float64)
    fused = _scaled(conv, weight.astype(np.float64), scale).astype(weight.dtype)
    moved = (old * scale + offset).astype(weight.dtype)
    if not (np.all(np.isfinite(fused)) and np.all(np.isfinite(moved))):
        return False
    set_constant(conv, 1, fused)
    set_constant(conv, 2, moved)
    final = reader.outputs[0]
    ir.convenience.replace_all_uses_with(final, result, replace_graph_outputs=True)
    assert reader.graph is not None
    reader.graph.remove(reader, safe=True)
    result.name, result.shape, result.type = final.name, final.shape, final.type
    result.metadata_props.update(final.metadata_props)
    return True


def _scaled(conv: ir.Node, weight: Array, scale: Array) -> Array:
    """Return `weight`, (out, in / group, ...) or of ConvTranspose (in, out / group, ...), output channels scaled."""
    spatial = (1,) * (weight.ndim - 2)
    if conv.op_type == "Conv":
        return weight * scale.reshape(-1, 1, *spatial)
    groups = group(conv)
    by_group = weight.reshape(groups, -1, *weight.shape[1:]) * scale.reshape(groups, 1, -1, *spatial)
    return by_group.reshape(weight.shape)
