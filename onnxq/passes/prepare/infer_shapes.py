"""Infer shapes and types."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from onnxq.graph.walk import scopes
from onnxq.passes import register_pass
from onnxq.passes.prepare._declared import correct_constants, forget_shapes
from onnxq.passes.prepare.load_small import LIMIT


@register_pass("infer-shapes", preserves_semantics=True)
class InferShapes(ir.passes.InPlacePass):
    """Infer the shapes and types of all values again; what cannot be inferred keeps what was declared.

    Not onnx_ir's own pass round the same inference, because that one leaves a model without any shape when one node
    fails, often on a stale declaration of the model itself; takes sequences for tensors; takes default values of graph
    inputs for constants; and fails on small tensors that are external.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Infer in all scopes; never fails for what a model declares."""
        inferred = _inferred(model, strict=True) or _inferred(model, strict=False)
        modified = correct_constants(model)
        if inferred is None:
            return ir.passes.PassResult(model, modified)
        for scope, twin in zip(scopes(model), scopes(inferred), strict=True):
            for node, other in zip(scope, twin, strict=True):
                for value, known in zip(node.outputs, other.outputs, strict=False):  # trailing empty ones are gone
                    modified |= _take(value, known)
        return ir.passes.PassResult(model, modified)


def _inferred(model: ir.Model, *, strict: bool) -> ir.Model | None:
    """Return a copy of `model` without weights that holds what could be inferred, None if nothing could."""
    copy = model.clone()
    forget_shapes(copy)
    for name, value in list(copy.graph.initializers.items()):
        tensor = value.const_value
        if value.is_graph_input():  # a default value
            del copy.graph.initializers[name]
        elif tensor is not None and (tensor.nbytes > LIMIT or isinstance(tensor, ir.ExternalTensor)):
            del copy.graph.initializers[name]
            copy.graph.inputs.append(value)
    try:
        proto = onnx.shape_inference.infer_shapes(
            ir.to_proto(copy), check_type=strict, strict_mode=strict, data_prop=True
        )
        return ir.from_proto(proto)
    except Exception:  # inference, and serializing what a model may hold, raise whatever comes up
        return None


def _take(value: ir.Value, inferred: ir.Value) -> bool:
    """Give `value` the inferred shape and type; return whether that changed anything."""
    shape = value.shape if inferred.shape is None else inferred.shape
    kind = value.type if inferred.type is None else inferred.type
    modified = value.shape != shape or value.type != kind
    value.shape, value.type = shape, kind
    return modified
