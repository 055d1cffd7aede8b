"""Fuse the parts that exporters write HardSwish and HardSigmoid in."""

from __future__ import annotations

import onnx_ir as ir

from onnxq.graph.constants import constant_tensor
from onnxq.graph.walk import scopes
from onnxq.passes import register_pass
from onnxq.passes.prepare._shield import parked

_HARD_SWISH = 14  # the opset that brought it


@register_pass("fuse-hard-swish", preserves_semantics=True)
class FuseHardSwish(ir.passes.InPlacePass):
    """Join Add 3, Clip 0..6, Mul and Div 6 into HardSwish, and without Mul into HardSigmoid.

    x * min(max(x + 3, 0), 6) / 6 (Howard et al. 2019). onnxruntime runs a HardSwish as two kernels, its parts as four:
    48 x 80 x 80 values take half the time.

    Guards: the stock rules write HardSwish in opsets that do not have it, and of float16 and double, for which
    onnxruntime has no kernel; they drop the names of nodes.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuse in all scopes."""
        from onnxscript.rewriter import RewritePass
        from onnxscript.rewriter.rules.common import fuse_hardswish_rules

        opset = model.opset_imports.get("", 0)
        clips = [node for scope in scopes(model) for node in scope if node.op_type == "Clip" and not node.domain]
        if not clips or opset < _HARD_SWISH:
            return ir.passes.PassResult(model, modified=False)
        names = {value.name: node.name for scope in scopes(model) for node in scope for value in node.outputs}
        with parked([node for node in clips if not _is_float(node)]):
            result = RewritePass(fuse_hardswish_rules())(model)
        for scope in scopes(model):
            for node in scope:
                if node.op_type in ("HardSwish", "HardSigmoid") and not node.domain:
                    node.name = names.get(node.outputs[0].name, node.name)
        return ir.passes.PassResult(model, modified=result.modified)


def _is_float(clip: ir.Node) -> bool:
    """Tell by its lower bound whether a Clip is of float32; types of inner values may be unknown."""
    bound = constant_tensor(clip.inputs[1]) if len(clip.inputs) > 1 else None
    return bound is not None and bound.dtype == ir.DataType.FLOAT
