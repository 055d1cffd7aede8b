"""Remove Identity nodes."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from onnxq.graph.walk import scopes
from onnxq.passes import register_pass
from onnxq.passes.prepare._shield import parked


@register_pass("remove-identities", preserves_semantics=True)
class RemoveIdentities(ir.passes.InPlacePass):
    """Remove Identity nodes, except those that give a graph output its name.

    Guards: the stock pass renames a graph output that is read through an Identity by another one, makes a value of an
    outer scope the output of a subgraph, and fails where the declared shapes before and after differ in rank.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Remove in all scopes."""
        kept = []
        for scope in scopes(model):
            for node in scope:
                if node.op_type == "Identity" and not node.domain and _must_stay(node):
                    kept.append(node)
        with parked(kept):
            result = common.IdentityEliminationPass()(model)
        return ir.passes.PassResult(model, modified=result.modified)


def _must_stay(node: ir.Node) -> bool:
    if len(node.inputs) != 1 or len(node.outputs) != 1 or node.inputs[0] is None:
        return True
    source, result = node.inputs[0], node.outputs[0]
    if source.shape is not None and result.shape is not None and len(source.shape) != len(result.shape):
        result.shape = None  # one of the two is wrong; the node itself changes nothing
    if not result.is_graph_output():
        return False
    producer = source.producer()
    return producer is None or producer.graph is not node.graph or source.is_graph_output()
