"""Infer shapes and types."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from onnxq.graph.walk import scopes
from onnxq.passes import register_pass
from onnxq.passes.prepare._declared import forget_shapes
from onnxq.passes.prepare._shield import without_defaults


@register_pass("infer-shapes", preserves_semantics=True)
class InferShapes(ir.passes.InPlacePass):
    """Infer the shapes and types of all values anew; what cannot be inferred keeps what was declared.

    Guards: the stock pass leaves the model without any shape when one node fails, and what it fails on is often what
    the model itself declares: a stale shape of a weight or of a value in between. So declared shapes are put aside
    first, and if inference still fails it is run again to get at least what is right.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Infer in all scopes; never fails for what a model declares."""
        before = _shapes(model)
        declared = forget_shapes(model)
        with without_defaults(model):
            for strict in (True, False):
                if common.ShapeInferencePass(check_type=strict, strict_mode=strict)(model).modified:
                    break
        for value, (shape, kind) in declared.items():
            value.shape = shape if value.shape is None else value.shape
            value.type = kind if value.type is None else value.type
        return ir.passes.PassResult(model, modified=_shapes(model) != before)


def _shapes(model: ir.Model) -> list[tuple[str, str]]:
    return [(str(value.type), str(value.shape)) for scope in scopes(model) for node in scope for value in node.outputs]
