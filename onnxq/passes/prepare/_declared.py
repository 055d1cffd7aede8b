"""What a model declares of its own values, which need not be true."""

from __future__ import annotations

import onnx_ir as ir

from onnxq.graph.walk import scopes


def correct_constants(model: ir.Model) -> bool:
    """Give initializers the shape and type of their data; return whether one had another."""
    modified = False
    for scope in scopes(model):
        for value in scope.initializers.values():
            tensor = value.const_value
            if tensor is None or value.is_graph_input():
                continue
            shape, kind = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
            modified |= value.shape != shape or value.type != kind
            value.shape, value.type = shape, kind
    return modified


def forget_shapes(model: ir.Model) -> None:
    """Take shapes and types from all values that nodes make, and correct the constants.

    Inference and conversion in C++ refuse a whole model for one stale shape, and build on it where they do not.
    """
    correct_constants(model)
    for scope in scopes(model):
        for node in scope:
            for value in node.outputs:
                value.shape = value.type = None
