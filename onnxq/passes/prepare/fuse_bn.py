"""Fuse BatchNormalization into the convolution or Gemm before it."""

from __future__ import annotations

import onnx_ir as ir

from onnxq.graph.constants import constant_tensor
from onnxq.graph.walk import scopes
from onnxq.passes import register_pass
from onnxq.passes.prepare._shield import parked

_INTO = frozenset({"Conv", "ConvTranspose", "Gemm"})


@register_pass("fuse-bn", preserves_semantics=True)
class FuseBatchNorm(ir.passes.InPlacePass):
    """Fold BatchNormalization into the weights and bias of the Conv, ConvTranspose or Gemm that feeds it.

    gamma * (W x + b - mean) / sqrt(var + eps) + beta = (s W) x + s (b - mean) + beta, with s = gamma / sqrt(var + eps).

    Guards: the stock rules fuse in training mode too, where mean and variance come from the batch; fail on an empty
    bias slot; mix the types of a float16 model's float32 statistics; fuse weights of an outer scope, which are then
    defined twice; and give the fused node another name.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuse in all scopes."""
        names: dict[str, str] = {}
        kept: list[ir.Node] = []
        for scope in scopes(model):
            for node in scope:
                if node.op_type != "BatchNormalization" or node.domain:
                    continue
                before = node.inputs[0].producer() if node.inputs[0] is not None else None
                if before is None or before.op_type not in _INTO or not _may_fuse(node, before):
                    kept.append(node)
                else:
                    names[node.outputs[0].name or ""] = before.name or ""
                    _drop_empty_bias(before)
        if not names:
            return ir.passes.PassResult(model, modified=False)
        from onnxscript.rewriter import RewritePass
        from onnxscript.rewriter.rules.common import (
            fuse_batchnorm_into_conv_rule,
            fuse_batchnorm_into_conv_transpose_rule,
            fuse_batchnorm_into_gemm_rule,
        )

        rules = (
            fuse_batchnorm_into_conv_rule,
            fuse_batchnorm_into_conv_transpose_rule,
            fuse_batchnorm_into_gemm_rule,
        )
        with parked(kept):
            result = RewritePass(rules)(model)
        for scope in scopes(model):
            for node in scope:
                if node.op_type in _INTO and node.outputs[0].name in names:
                    node.name = names[node.outputs[0].name]
        return ir.passes.PassResult(model, modified=result.modified)


def _may_fuse(norm: ir.Node, before: ir.Node) -> bool:
    if norm.graph is not before.graph or any(output.uses() or output.is_graph_output() for output in norm.outputs[1:]):
        return False
    if any(output.name for output in norm.outputs[1:]):  # before opset 14 asking for them means training
        return False
    training = norm.attributes.get("training_mode")
    spatial = norm.attributes.get("spatial")  # opset 7 and 8: 0 normalizes every element by itself
    if (training is not None and training.as_int() != 0) or (spatial is not None and spatial.as_int() == 0):
        return False
    values = [*norm.inputs[1:5], *(value for value in before.inputs[1:] if value is not None)]
    tensors = [constant_tensor(value) for value in values]
    if any(value is None or value.graph is not before.graph for value in values):
        return False
    types = {tensor.dtype if tensor is not None else None for tensor in tensors}
    return types in ({ir.DataType.FLOAT}, {ir.DataType.DOUBLE})


def _drop_empty_bias(node: ir.Node) -> None:
    if len(node.inputs) == 3 and node.inputs[2] is None:
        node.resize_inputs(2)
