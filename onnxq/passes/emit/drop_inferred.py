"""Take out the types and shapes that preparation inferred."""

from __future__ import annotations

import onnx_ir as ir

from onnxq.graph.walk import scopes
from onnxq.passes import register_pass

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@register_pass("drop-inferred", preserves_semantics=True)
class DropInferred(ir.passes.InPlacePass):
    """Take out types and shapes of inner values that the model did not declare itself.

    They were for planning. Left in, they make the file larger, and let onnxruntime choose fusions that it would not
    choose for the float model (SkipLayerNormalization, several times slower than what it replaces).
    """

    def __init__(self, declared: frozenset[str] = frozenset()) -> None:
        """Keep what is declared for the values named in `declared`."""
        super().__init__()
        self.declared = declared

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Go through all scopes."""
        changed = False
        for scope in scopes(model):
            for node in scope:
                for value in node.outputs:
                    if value.name in self.declared or value.is_graph_output() or value.type is None:
                        continue
                    value.shape = None
                    if value.dtype in _FLOATS:  # the types of codes tell readers what runs on them
                        value.type = None
                    changed = True
        return ir.passes.PassResult(model, modified=changed)


def declared_values(model: ir.Model) -> frozenset[str]:
    """Return the names of the inner values that a model declares a type for."""
    return frozenset(
        value.name
        for scope in scopes(model)
        for node in scope
        for value in node.outputs
        if value.type is not None and value.name
    )
