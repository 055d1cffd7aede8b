"""Lift Constant nodes to initializers."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from onnxq.graph.constants import constant_tensor
from onnxq.passes import register_pass


@register_pass("lift-constants", preserves_semantics=True)
class LiftConstants(ir.passes.InPlacePass):
    """Turn Constant nodes into initializers, so that weights have one form.

    Guards: the stock pass leaves scalars and `value_ints` unless told otherwise, and fails on text that is not ASCII.
    Constants that are graph outputs stay, and so do those in functions, which cannot hold initializers.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lift in all scopes."""
        for scope in (model.graph, *model.graph.subgraphs()):
            for node in scope:
                if (
                    node.op_type == "Constant"
                    and not node.domain
                    and not {"value_string", "value_strings"}.isdisjoint(node.attributes)
                ):
                    tensor = constant_tensor(node.outputs[0])
                    if tensor is not None:
                        node.attributes.clear()
                        node.attributes["value"] = ir.AttrTensor("value", tensor)
        result = common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        return ir.passes.PassResult(model, modified=result.modified)
