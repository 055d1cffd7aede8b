"""Inline local functions."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from onnxq.errors import ModelError
from onnxq.passes import register_pass

_NODES_AT_MOST = 1_000_000


@register_pass("inline", preserves_semantics=True)
class Inline(ir.passes.InPlacePass):
    """Replace calls of local functions by their bodies, and drop the functions.

    Guards: the stock pass leaves functions that nobody calls, whose opset gets in the way of conversion; it calls nodes
    without a name `node`; and it never ends on functions that call each other twice, each the next, forty deep.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Inline everything.

        Raises:
            PreconditionError: functions call each other in a circle. ModelError: the result would be too big.
        """
        if not model.functions:
            return ir.passes.PassResult(model, modified=False)
        stock = common.InlinePass()
        stock.requires(model)
        size = _size(model.graph, model, {})
        if size > _NODES_AT_MOST:
            raise ModelError(f"its local functions would become {size:,} nodes; inline them in the exporter")
        for function in model.functions.values():
            for index, node in enumerate(function):
                node.name = node.name or f"{function.name}/{node.op_type}_{index}"
        stock(model)
        common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
        return ir.passes.PassResult(model, modified=True)


def _size(graph: ir.Graph | ir.Function, model: ir.Model, known: dict[ir.OperatorIdentifier, int]) -> int:
    """Return how many nodes `graph` has once all calls are replaced."""
    total = 0
    for node in graph.all_nodes():
        called = node.op_identifier()
        if called not in model.functions:
            total += 1
            continue
        if called not in known:
            known[called] = _size(model.functions[called], model, known)
        total += known[called]
    return total
