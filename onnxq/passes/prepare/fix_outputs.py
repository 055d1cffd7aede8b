"""Make every graph output a value of its own."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from onnxq.passes import register_pass


@register_pass("fix-outputs", preserves_semantics=True)
class FixOutputs(ir.passes.InPlacePass):
    """Put an Identity before outputs of subgraphs that are its inputs, or that come twice.

    Guard: in the main graph the stock pass would rename an input, or the second of two outputs; there the model stays
    as it was exported.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fix all subgraphs, with the main graph's outputs out of sight where the stock pass would rename them."""
        outputs = list(model.graph.outputs)
        model.graph.outputs[:] = dict.fromkeys(value for value in outputs if not value.is_graph_input())
        try:
            modified = common.OutputFixPass()(model).modified
        finally:
            model.graph.outputs[:] = outputs
        return ir.passes.PassResult(model, modified=modified)
