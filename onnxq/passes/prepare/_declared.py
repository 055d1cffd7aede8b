"""What a model declares of its own values, which need not be true."""

from __future__ import annotations

import onnx_ir as ir

from onnxq.graph.walk import scopes

Declared = dict[ir.Value, tuple[ir.Shape | None, ir.TypeProtocol | None]]


def forget_shapes(model: ir.Model) -> Declared:
    """Take shapes and types from all values that nodes make, give initializers those of their data; return the former.

    Inference and conversion in C++ refuse a whole model for one stale shape, and build on it where they do not.
    """
    declared: Declared = {}
    for scope in scopes(model):
        for value in scope.initializers.values():
            if value.const_value is not None and not value.is_graph_input():
                value.shape = ir.Shape(value.const_value.shape.numpy())
                value.type = ir.TensorType(value.const_value.dtype)
        for node in scope:
            for value in node.outputs:
                declared[value] = (value.shape, value.type)
                value.shape = None
                if isinstance(value.type, ir.TensorType):
                    value.type = None
    return declared
