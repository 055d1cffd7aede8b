"""Fuse the parts that exporters write HardSwish and HardSigmoid in."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from onnxq.graph.constants import constant_tensor
from onnxq.graph.walk import scopes
from onnxq.passes import register_pass

_FACTORS = {"low": 0.0, "high": 6.0, "offset": 3.0, "divisor": 6.0}


@register_pass("fuse-hard-swish", preserves_semantics=True)
class FuseHardSwish(ir.passes.InPlacePass):
    """Join Add 3, Clip 0..6 and Div 6 into HardSigmoid, and with a Mul in between into HardSigmoid and Mul.

    x * min(max(x + 3, 0), 6) / 6 = x * HardSigmoid(x; 1/6, 1/2) (Howard et al. 2019). onnxruntime runs a HardSwish as
    just these two kernels, its parts as four: 48 x 80 x 80 values take half the time.

    The stock rules take constants that are near enough, need opset 14 for their HardSwish, and write float16 and double
    too, for which onnxruntime has no kernel.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuse in all scopes."""
        from onnxscript.rewriter import RewritePass
        from onnxscript.rewriter.pattern import RewriteRule, RewriteRuleSet

        if not any(node.op_type == "Clip" for scope in scopes(model) for node in scope):
            return ir.passes.PassResult(model, modified=False)
        before = {node for scope in scopes(model) for node in scope}
        names = {value.name: node.name for node in before for value in node.outputs}
        rules = [RewriteRule(parts, whole, _is_it) for parts, whole in ((_swish, _as_swish), (_sigmoid, _as_sigmoid))]
        result = RewritePass(RewriteRuleSet(rules, commute=True))(model)
        for scope in scopes(model):
            for node in scope:
                if node not in before:
                    node.name = names.get(node.outputs[0].name, node.name)
        return ir.passes.PassResult(model, modified=result.modified)


def _swish(op: Any, x: Any, offset: Any, low: Any, high: Any, divisor: Any) -> Any:  # noqa: PLR0917 - the rewriter's
    return op.Div(op.Mul(op.Clip(op.Add(x, offset), low, high), x), divisor)


def _as_swish(op: Any, x: Any, **_: Any) -> Any:
    return op.Mul(x, _as_sigmoid(op, x))


def _sigmoid(op: Any, x: Any, offset: Any, low: Any, high: Any, divisor: Any) -> Any:  # noqa: PLR0917 - the rewriter's
    return op.Div(op.Clip(op.Add(x, offset), low, high), divisor)


def _as_sigmoid(op: Any, x: Any, **_: Any) -> Any:
    return op.HardSigmoid(x, alpha=1 / 6, beta=0.5)


def _is_it(_: Any, **values: ir.Value) -> bool:
    """Return whether the constants are those of a HardSwish, single float32 numbers that add no axes."""
    rank = None if values["x"].shape is None else len(values["x"].shape)
    for name, expected in _FACTORS.items():
        tensor = constant_tensor(values[name])
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size != 1:
            return False
        if len(tensor.shape) > (rank or 0) or tensor.numpy().item() != expected:
            return False
    return True
