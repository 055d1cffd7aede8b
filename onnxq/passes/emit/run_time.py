"""Quantizing an activation at run time, in operators of the ONNX standard (opset 11 and up).

    per tensor, uint8 asymmetric:  DynamicQuantizeLinear
    per tensor, symmetric:         scale = max(max |x| / half, least), codes = QuantizeLinear(x, scale, middle)
    asymmetric:                    scale = max((max(x, 0) - min(x, 0)) / steps, least),
                                   zero point = lowest code - round(min(x, 0) / scale)
    per token:                     the same with one scale a row: codes = clip(round(x / scale) + zero point)

The arithmetic is that of `onnxq.numerics.affine` and of ONNX's DynamicQuantizeLinear. `least` is float32's smallest
normal number: a tensor of zeros has zeros for codes, not 0 / 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxq.passes.emit.node_builder import NodeBuilder
from onnxq.types.scheme import PerToken, Scheme

_LEAST = float(np.finfo(np.float32).tiny)
_AXES_ARE_INPUTS = 18
FLOAT, INT32 = ir.DataType.FLOAT, ir.DataType.INT32


@dataclass(frozen=True, kw_only=True, slots=True)
class RunTimeCodes:
    """A quantized activation.

    Attributes:
        codes: int8 or uint8, of the activation's shape.
        scale: float32, shape () per tensor; the activation's with a last axis of 1 per token.
        zero_point: of the codes' type, shape (); what all codes have in common. None for 0.
        shift: int32, of `scale`'s shape: what each row's zero point has beyond `zero_point`; None where it is nothing.
    """

    codes: ir.Value
    scale: ir.Value
    zero_point: ir.Value | None
    shift: ir.Value | None = None

    @property
    def per_token(self) -> bool:
        """Whether each row has a scale of its own."""
        return self.scale.shape is None or len(self.scale.shape) > 0


def quantize_at_run_time(build: NodeBuilder, x: ir.Value, scheme: Scheme, opset: int) -> RunTimeCodes:
    """Write the nodes that quantize `x`.

    Args:
        build: where to write.
        x: float32.
        scheme: int8 or uint8, per tensor or per token.
        opset: of the model.
    """
    dtype = ir.DataType.from_numpy(np.dtype(scheme.dtype.value))
    scalar = ir.Shape([])
    if not isinstance(scheme.granularity, PerToken) and not scheme.symmetric and not scheme.dtype.signed:
        codes, scale, zero_point = build.outputs(
            "DynamicQuantizeLinear",
            [x],
            (("quantized", dtype, x.shape), ("scale", FLOAT, scalar), ("zero_point", dtype, scalar)),
        )
        return RunTimeCodes(codes=codes, scale=scale, zero_point=zero_point)
    extremes = _Extremes(build, x, per_token=isinstance(scheme.granularity, PerToken), opset=opset)
    if scheme.symmetric:
        return _symmetric(build, x, extremes, scheme, dtype)
    return _asymmetric(build, x, extremes, scheme, dtype)


class _Extremes:
    """Writes what finds the largest and smallest value of a tensor, or of each of its rows."""

    def __init__(self, build: NodeBuilder, x: ir.Value, *, per_token: bool, opset: int) -> None:
        self.per_token = per_token
        self.shape: ir.Shape | None = ir.Shape([])
        if per_token:
            self.shape = None if x.shape is None else ir.Shape([*x.shape[:-1], 1])
        self._build = build
        self._opset = opset

    def reduce(self, op: str, value: ir.Value, to: str) -> ir.Value:
        """Write ReduceMax or ReduceMin."""
        attributes: dict[str, object] = {"keepdims": int(self.per_token)}
        inputs = [value]
        if self.per_token and self._opset < _AXES_ARE_INPUTS:
            attributes["axes"] = [-1]
        elif self.per_token:
            inputs.append(self._build.constant([-1], np.int64))
        return self._build(op, *inputs, to=to, dtype=FLOAT, shape=self.shape, attributes=attributes)


def _symmetric(
    build: NodeBuilder, x: ir.Value, extremes: _Extremes, scheme: Scheme, dtype: ir.DataType
) -> RunTimeCodes:
    half = scheme.dtype.maximum - scheme.middle
    size = build("Abs", x, to="absolute", dtype=FLOAT, shape=x.shape)
    largest = extremes.reduce("ReduceMax", size, "largest")
    scale = _scale(build, largest, half, extremes.shape)
    middle = build.constant(scheme.middle, dtype.numpy())
    if extremes.per_token:
        codes = _rows(build, x, scale, dtype, zero_point=build.constant(scheme.middle) if scheme.middle else None)
    else:
        codes = build("QuantizeLinear", x, scale, middle, to="quantized", dtype=dtype, shape=x.shape)
    return RunTimeCodes(codes=codes, scale=scale, zero_point=middle if scheme.middle else None)


def _asymmetric(
    build: NodeBuilder, x: ir.Value, extremes: _Extremes, scheme: Scheme, dtype: ir.DataType
) -> RunTimeCodes:
    lowest, highest = scheme.code_range
    zero = build.constant(0.0)
    shape = extremes.shape
    low = build("Min", extremes.reduce("ReduceMin", x, "smallest"), zero, to="low", dtype=FLOAT, shape=shape)
    high = build("Max", extremes.reduce("ReduceMax", x, "largest"), zero, to="high", dtype=FLOAT, shape=shape)
    extent = build("Sub", high, low, to="extent", dtype=FLOAT, shape=shape)
    scale = _scale(build, extent, highest - lowest, shape)
    below = build("Div", low, scale, to="below", dtype=FLOAT, shape=shape)
    rounded = build("Round", below, to="below/rounded", dtype=FLOAT, shape=shape)
    place = build("Sub", build.constant(lowest), rounded, to="zero_point/float", dtype=FLOAT, shape=shape)
    if extremes.per_token:
        codes = _rows(build, x, scale, dtype, zero_point=place, limits=(lowest, highest))
        shift = build("Cast", place, to="shift", dtype=INT32, shape=shape, attributes={"to": INT32.value})
        return RunTimeCodes(codes=codes, scale=scale, zero_point=None, shift=shift)
    zero_point = build("Cast", place, to="zero_point", dtype=dtype, shape=shape, attributes={"to": dtype.value})
    codes = build("QuantizeLinear", x, scale, zero_point, to="quantized", dtype=dtype, shape=x.shape)
    return RunTimeCodes(codes=codes, scale=scale, zero_point=zero_point)


def _scale(build: NodeBuilder, extent: ir.Value, codes: int, shape: ir.Shape | None) -> ir.Value:
    quotient = build("Div", extent, build.constant(codes), to="scale/exact", dtype=FLOAT, shape=shape)
    return build("Max", quotient, build.constant(_LEAST), to="scale", dtype=FLOAT, shape=shape)


def _rows(
    build: NodeBuilder,
    x: ir.Value,
    scale: ir.Value,
    dtype: ir.DataType,
    *,
    zero_point: ir.Value | None,
    limits: tuple[int, int] | None = None,
) -> ir.Value:
    """Write QuantizeLinear with a scale for each row, which the operator itself has not before opset 21."""

    def step(op: str, *inputs: ir.Value, to: str) -> ir.Value:
        return build(op, *inputs, to=to, dtype=FLOAT, shape=x.shape)

    value = step("Round", step("Div", x, scale, to="quotient"), to="rounded")
    if zero_point is not None:
        value = step("Add", value, zero_point, to="shifted")
    if limits is not None:
        value = step("Clip", value, *(build.constant(limit) for limit in limits), to="clipped")
    return build("Cast", value, to="quantized", dtype=dtype, shape=x.shape, attributes={"to": dtype.value})
