"""Integer operators: the order in which each takes codes, scales and zero points.

QLinearConv and QLinearMatMul: ONNX specification, opsets 10 and 21. The others are onnxruntime's own, domain
com.microsoft: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md. Operators that move codes
(Reshape, MaxPool ...) need no entry: they take codes in the place of values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import onnx_ir as ir

from onnxq.errors import PlanError
from onnxq.passes.emit.emitter import CONTRIB

Inputs = list[ir.Value | None]


class Operands(Protocol):
    """The quantized inputs and the output of one node."""

    slots: int
    """Number of inputs of the float operator."""

    def value(self, slot: int) -> ir.Value | None:
        """Return the codes of an input that is quantized, else the input as it is; None for one left empty."""

    def parameters(self, slot: int) -> Inputs:
        """Return scale and zero point of an input."""

    def columns(self, slot: int) -> Inputs:
        """Return scale and zero point of a matrix product's second input, in the shape that the kernels want."""

    def output(self) -> Inputs:
        """Return scale and zero point of the output, nothing where it is float."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """How one integer operator is written.

    Attributes:
        inputs: its inputs. domain: where it is defined. float_output: whether its output may be float.
        attributes: those of the float operator that it takes.
        left_out: those that it lacks, each with a test that tells whether a node can do without.
        more: attributes that it needs besides, from node and opset.
    """

    inputs: Callable[[Operands], Inputs]
    domain: str = CONTRIB
    float_output: bool = False
    attributes: tuple[str, ...] = ()
    left_out: Mapping[str, Callable[[ir.Node], bool]] = field(default_factory=dict)
    more: Callable[[ir.Node, int], Mapping[str, int]] = lambda node, opset: {}

    def attributes_for(self, node: ir.Node, opset: int) -> list[ir.Attr]:
        """Return the attributes that stand for those of a float node.

        Raises:
            PlanError: the operator has none that does.
        """
        for name in node.attributes:
            if name not in self.attributes and not (name in self.left_out and self.left_out[name](node)):
                raise PlanError(
                    f"'{node.name}' ({node.op_type}): its integer kernel has no attribute '{name}'; keep it in float"
                )
        kept = [entry for name, entry in node.attributes.items() if name in self.attributes]
        return kept + [ir.AttrInt64(name, value) for name, value in self.more(node, opset).items()]


def _each(operands: Operands, slot: int) -> Inputs:
    return [operands.value(slot), *operands.parameters(slot)]


def _unary(operands: Operands) -> Inputs:
    return [*_each(operands, 0), *operands.output()]


def _binary(operands: Operands) -> Inputs:
    return [*_each(operands, 0), *_each(operands, 1), *operands.output()]


def _conv(operands: Operands) -> Inputs:
    return [*_binary(operands), operands.value(2)]


def _gemm(operands: Operands) -> Inputs:
    return [*_each(operands, 0), *_each(operands, 1), operands.value(2), *operands.output()]


def _matmul(operands: Operands) -> Inputs:
    return [*_each(operands, 0), operands.value(1), *operands.columns(1), *operands.output()]


def _matmul_to_float(operands: Operands) -> Inputs:
    (scale, zero_point), (column_scale, column_zero_point) = operands.parameters(0), operands.columns(1)
    return [operands.value(0), operands.value(1), scale, column_scale, zero_point, column_zero_point]


def _concat(operands: Operands) -> Inputs:
    return [*operands.output(), *(value for slot in range(operands.slots) for value in _each(operands, slot))]


def _where(operands: Operands) -> Inputs:
    return [operands.value(0), *_each(operands, 1), *_each(operands, 2), *operands.output()]


def _dense(node: ir.Node) -> bool:
    return all(step == 1 for step in node.attributes.get_ints("dilations", ()))


def _unscaled_bias(node: ir.Node) -> bool:
    return node.attributes.get_float("beta", 1.0) == 1.0 or len(node.inputs) < 3 or node.inputs[2] is None


def _softmax(node: ir.Node, opset: int) -> Mapping[str, int]:
    return {"axis": node.attributes.get_int("axis", -1 if opset >= 13 else 1), "opset": opset}


_WINDOW = ("auto_pad", "kernel_shape", "pads", "strides")

KERNELS: Mapping[str, Kernel] = {
    "QLinearConv": Kernel(inputs=_conv, domain="", attributes=(*_WINDOW, "dilations", "group")),
    "QLinearMatMul": Kernel(inputs=_matmul, domain=""),
    "MatMulIntegerToFloat": Kernel(inputs=_matmul_to_float, float_output=True),
    "QGemm": Kernel(
        inputs=_gemm,
        float_output=True,
        attributes=("alpha", "transA", "transB"),
        left_out={"beta": _unscaled_bias},
    ),
    "QLinearAdd": Kernel(inputs=_binary),
    "QLinearMul": Kernel(inputs=_binary),
    "QLinearSigmoid": Kernel(inputs=_unary),
    "QLinearLeakyRelu": Kernel(inputs=_unary, attributes=("alpha",)),
    "QLinearSoftmax": Kernel(inputs=_unary, left_out={"axis": lambda node: True}, more=_softmax),
    "QLinearAveragePool": Kernel(
        inputs=_unary,
        attributes=(*_WINDOW, "ceil_mode", "count_include_pad"),
        left_out={"dilations": _dense},
    ),
    "QLinearGlobalAveragePool": Kernel(inputs=_unary),
    "QLinearConcat": Kernel(inputs=_concat, attributes=("axis",)),
    "QLinearWhere": Kernel(inputs=_where),
}
