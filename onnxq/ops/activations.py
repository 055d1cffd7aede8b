"""Activation functions. Relu and Clip only clamp: the quantization of their output can do their work."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onnxq.graph.constants import constant_array
from onnxq.graph.walk import input_at
from onnxq.ops import UNBOUNDED, OpFact, facts
from onnxq.types.scheme import Range

if TYPE_CHECKING:
    import onnx_ir as ir


def _clip_bounds(node: ir.Node) -> Range | None:
    """Bounds of a Clip: attributes up to opset 10, inputs 1 and 2 from opset 11 on; None where one is not constant."""
    bounds = []
    for slot, (name, default) in enumerate((("min", -UNBOUNDED), ("max", UNBOUNDED)), start=1):
        value = input_at(node, slot)
        if value is None:
            bound = node.attributes.get_float(name, default)
        else:
            array = constant_array(value)
            if array is None or array.size != 1:
                return None
            bound = float(array.reshape(()))
        if math.isnan(bound):
            return None
        bounds.append(min(max(bound, -UNBOUNDED), UNBOUNDED))
    return Range(low=bounds[0], high=bounds[1]) if bounds[0] <= bounds[1] else None


facts.add("Relu", OpFact(summary="max(x, 0)", activations=(0,), clamp=lambda node: Range(low=0.0, high=UNBOUNDED)))
facts.add("Clip", OpFact(summary="clamp between two bounds", activations=(0,), clamp=_clip_bounds))

for _op, _summary in {
    "LeakyRelu": "x, or alpha x below zero",
    "PRelu": "x, or a learned slope times x below zero",
    "Elu": "x, or alpha (exp x - 1) below zero",
    "HardSwish": "x HardSigmoid(x)",
    "Gelu": "x Phi(x)",
    "Mish": "x tanh(softplus x)",
}.items():
    facts.add(_op, OpFact(summary=_summary, activations=(0,)))

_SHARE, _BOTH_SIGNS = Range(low=0.0, high=1.0), Range(low=-1.0, high=1.0)

for _op, _summary, _image in (
    ("Sigmoid", "1 / (1 + exp -x)", _SHARE),
    ("HardSigmoid", "clamped alpha x + beta", _SHARE),
    ("Tanh", "hyperbolic tangent", _BOTH_SIGNS),
    ("Erf", "error function", _BOTH_SIGNS),
):
    facts.add(_op, OpFact(summary=_summary, activations=(0,), image=_image))

facts.add("Softmax", OpFact(summary="exp x, normalised to sum 1", activations=(0,), image=_SHARE, whole_range=True))
