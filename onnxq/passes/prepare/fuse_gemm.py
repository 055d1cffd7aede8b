"""Fuse MatMul and the Add of its bias into one Gemm."""

from __future__ import annotations

import onnx_ir as ir

from onnxq.graph.constants import constant_tensor
from onnxq.graph.walk import scopes
from onnxq.passes import register_pass
from onnxq.passes.prepare._shield import parked


@register_pass("fuse-gemm", preserves_semantics=True)
class FuseGemm(ir.passes.InPlacePass):
    """Join a MatMul of two matrices and the Add of a constant bias into one Gemm: A B + c.

    onnxruntime does the same before it looks for integer kernels, and finds none for a Gemm whose bias is float; as a
    Gemm from the start, the bias is quantized along.

    Guards: the stock rule also takes biases that Gemm cannot broadcast or that are computed, leaves a MatMul that
    others read, matches only a bias on the right, and drops the node's name.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuse in all scopes."""
        names: dict[str, str] = {}
        kept: list[ir.Node] = []
        for scope in scopes(model):
            for node in scope:
                if node.op_type != "Add" or node.domain:
                    continue
                product = _product(node)
                if product is None:
                    kept.append(node)
                else:
                    names[node.outputs[0].name or ""] = product.name or ""
        if not names:
            return ir.passes.PassResult(model, modified=False)
        from onnxscript.rewriter import RewritePass
        from onnxscript.rewriter.pattern import RewriteRuleSet
        from onnxscript.rewriter.rules.common import matmul_add_to_gemm_rule

        with parked(kept):
            result = RewritePass(RewriteRuleSet([matmul_add_to_gemm_rule], commute=True))(model)
        for scope in scopes(model):
            for node in scope:
                if node.op_type == "Gemm" and node.outputs[0].name in names:
                    node.name = names[node.outputs[0].name]
        return ir.passes.PassResult(model, modified=result.modified)


def _product(add: ir.Node) -> ir.Node | None:
    """Return the MatMul whose bias `add` adds, None if it is not such an Add."""
    for value, bias in (add.inputs, reversed(add.inputs)):
        product = value.producer() if value is not None else None
        if product is None or product.op_type != "MatMul" or product.domain or product.graph is not add.graph:
            continue
        if value is None or len(value.uses()) != 1 or value.is_graph_output():
            continue
        weight = product.inputs[1]
        if any(side is None or side.shape is None or len(side.shape) != 2 for side in product.inputs):
            continue
        tensor = constant_tensor(bias)
        if tensor is None or constant_tensor(weight) is None or weight is None or weight.shape is None:
            continue
        columns = weight.shape[1]
        if tuple(tensor.shape) in ((columns,), (1, columns)) and tensor.dtype == ir.DataType.FLOAT:
            return product
    return None
