"""Inline local functions."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from onnxq.passes import register_pass


@register_pass("inline", preserves_semantics=True)
class Inline(ir.passes.InPlacePass):
    """Replace calls of local functions by their bodies, and drop the functions.

    Guards: the stock pass leaves functions that nobody calls, whose opset gets in the way of conversion; and it calls
    nodes without a name `node`.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Inline everything.

        Raises:
            PreconditionError: functions call each other in a circle.
        """
        if not model.functions:
            return ir.passes.PassResult(model, modified=False)
        stock = common.InlinePass()
        stock.requires(model)
        for function in model.functions.values():
            for index, node in enumerate(function):
                node.name = node.name or f"{function.name}/{node.op_type}_{index}"
        stock(model)
        common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
        return ir.passes.PassResult(model, modified=True)
