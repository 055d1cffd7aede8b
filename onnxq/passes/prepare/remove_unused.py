"""Remove what nothing uses."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from onnxq.graph.walk import scopes
from onnxq.passes import register_pass


@register_pass("remove-unused", preserves_semantics=True)
class RemoveUnused(ir.passes.InPlacePass):
    """Remove nodes, initializers, optional outputs and opset imports that nothing uses.

    Guards: the stock pass does not tell when all it did was to trim inputs and outputs, and it leaves the unused
    initializers of subgraphs.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Remove in all scopes; graph inputs and outputs stay."""
        before = _outline(model)
        common.RemoveUnusedNodesPass()(model)
        for scope in model.graph.subgraphs():
            for name, value in list(scope.initializers.items()):
                if not (value.uses() or value.is_graph_output() or value.is_graph_input()):
                    del scope.initializers[name]
        common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass()(model)
        return ir.passes.PassResult(model, modified=_outline(model) != before)


def _outline(model: ir.Model) -> list[object]:
    """Return what the pass can change, comparable."""
    parts: list[object] = [dict(model.opset_imports), sorted(model.functions)]
    for scope in scopes(model):
        parts.append(sorted(scope.initializers))
        parts += [
            (id(node), len(node.inputs), [value.name for value in node.outputs], sorted(node.attributes))
            for node in scope
        ]
    return parts
