"""Simulation: every quantized value becomes the float that its code represents; no integer kernel takes part.

    activation:  x -> Clip(Round(x / s), qmin - z, qmax - z) * s        (Round: half to even, as QuantizeLinear)
    constant:    (code - z) * s, or what the code represents in a codebook, stored as float

At run time (format dynamic), as DynamicQuantizeLinear of the ONNX specification:
    low = min(0, min x), high = max(0, max x), s = (high - low) / (qmax - qmin), z = Clip(Round(qmin - low / s))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxq.numerics.codebook import codebook_dequantize
from onnxq.passes import register_pass
from onnxq.passes.emit.constants import Chosen
from onnxq.passes.emit.editor import Editor
from onnxq.passes.emit.emitter import DecisionWriter, Emitter
from onnxq.passes.emit.node_builder import NodeBuilder
from onnxq.passes.emit.rewire import Rewirer
from onnxq.types.format import Format
from onnxq.types.plan import Action, FloatFeatures, Plan, TensorPlan
from onnxq.types.scheme import PerToken, Scheme
from onnxq.types.statistics import Statistics


@register_pass("simulate", preserves_semantics=False)
class Simulate(Emitter):
    """Round values to what their codes represent, in float arithmetic, whatever the format."""

    fmt = Format.QDQ

    def __init__(
        self, plan: Plan, statistics: Statistics | None = None, chosen: Mapping[str, Chosen] | None = None
    ) -> None:
        """See `Emitter`."""
        formed = [
            replace(decision, format=Format.QDQ) if decision.action is Action.QUANTIZE else decision
            for decision in plan.decisions
        ]
        super().__init__(replace(plan, decisions=tuple(formed)), statistics, chosen)

    def writer(self, editor: Editor) -> DecisionWriter:
        """See `Emitter`."""
        return _RoundingWriter(editor)


class _RoundingWriter(Rewirer):
    """Makes values rounded to the grid of their codes."""

    def activation(self, tensor: TensorPlan, source: ir.Value) -> Sequence[ir.Node]:
        """Return the nodes that round an activation."""
        build = NodeBuilder(self.editor, tensor.name)
        if tensor.params is None:
            _round_at_run_time(build, tensor.scheme, source, tensor.in_float)
            return build.nodes
        low, high = (code - int(tensor.params.zero_point) for code in tensor.scheme.code_range)
        scale = build.constant(tensor.params.scale)
        code = _float(build, "Round", _float(build, "Div", source, scale))
        _float(build, "Mul", _float(build, "Clip", code, build.constant(low), build.constant(high)), scale)
        return build.nodes

    def constant(self, tensor: TensorPlan, reader: ir.Node) -> ir.Value:
        """Store what a constant's codes represent."""
        if tensor.scheme.vector > 1:
            by_row = bool(reader.attributes.get_int("transB", 0))
            decoded = self.editor.constants.product_codes(tensor.name, by_row=by_row).decoded()
            values = np.ascontiguousarray(decoded.T) if by_row else decoded
        elif tensor.scheme.codebook is not None:
            values = codebook_dequantize(*self.editor.constants.codebook(tensor.name))
        else:
            values = self.editor.constants.values(tensor.name)
        return self.editor.constant(f"{tensor.name}/dequantized", values, of=tensor.name)


def _round_at_run_time(build: NodeBuilder, scheme: Scheme, whole: ir.Value, in_float: FloatFeatures | None) -> None:
    """Add the nodes that find scale and zero point of a value, of each row where it has a scale, and round it.

    Features that stay in float are 0 meanwhile, and come back in the end.
    """
    source = whole
    if in_float is not None:
        source = _float(build, "Mul", whole, build.constant(in_float.others()))
    qmin, qmax = (build.constant(code) for code in scheme.code_range)
    zero, least = build.constant(0.0), build.constant(np.finfo(np.float32).tiny)
    by_row = isinstance(scheme.granularity, PerToken)
    axes: dict[str, Any] = {"axes": [-1], "keepdims": 1} if by_row else {"keepdims": 0}
    low = _float(build, "Min", _float(build, "ReduceMin", source, **axes), zero)
    high = _float(build, "Max", _float(build, "ReduceMax", source, **axes), zero)
    if scheme.symmetric:
        reach = _float(build, "Max", _float(build, "Neg", low), high)
        half = build.constant(scheme.code_range[1] - scheme.middle)
        scale = _float(build, "Max", _float(build, "Div", reach, half), least)
        point = build.constant(scheme.middle)
    else:
        first, last = scheme.code_range
        extent = _float(build, "Div", _float(build, "Sub", high, low), build.constant(last - first))
        scale = _float(build, "Max", extent, least)
        start = _float(build, "Sub", qmin, _float(build, "Div", low, scale))
        point = _float(build, "Clip", _float(build, "Round", start), qmin, qmax)
    code = _float(build, "Add", _float(build, "Round", _float(build, "Div", source, scale)), point)
    code = _float(build, "Clip", code, qmin, qmax)
    rounded = _float(build, "Mul", _float(build, "Sub", code, point), scale)
    if in_float is not None:
        _float(build, "Add", rounded, _float(build, "Mul", whole, build.constant(1 - in_float.others())))


def _float(build: NodeBuilder, op: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
    """Add an operator of float32 values; return its output."""
    return build(op, *inputs, to=op.lower(), dtype=ir.DataType.FLOAT, attributes=attributes)
