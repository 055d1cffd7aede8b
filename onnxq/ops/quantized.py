"""Quantized operators: which float operator each computes, and where it takes codes, scales and zero points.

Emitters, readers, planner, doctor and the checks for saturation all use this table; a new operator is one more entry
of `QUANTIZED_OPERATORS`. QLinearConv, QLinearMatMul, MatMulInteger and ConvInteger: ONNX specification, opsets 10 and
21. The others are onnxruntime's: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md. Operators
that move codes (Reshape, MaxPool ...) need no entry: they take codes in the place of values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from onnxq.graph.linear import CONTRIB
from onnxq.ops import op_key
from onnxq.types.format import Format

if TYPE_CHECKING:
    import onnx_ir as ir


BIAS, OUTPUT = 2, -1
"""The operand that is a bias, wherever there is one; what represents the output among operands."""


class OperandSlots(NamedTuple):
    """Where an operator takes the codes of one operand, their scale and zero point; None for what it does not take."""

    codes: int
    scale: int | None
    zero_point: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizedOperator:
    """One quantized operator. "Slot" is an input of it, "operand" an input of the float operator.

    Attributes:
        name: operator type. domain: where it is defined.
        float_op: the float operator that it computes; None where no operator of the standard does.
        formats: how its activations get codes: QOPERATOR by calibration, DYNAMIC at run time (its own work where it has
            no slots for them), WEIGHT_ONLY not at all.
        operands: by operand, its slots. variadic: whether further operands follow in the same order.
        floats: by operand that is not quantized, its slot.
        weights: operands that are weights.
        bias: slot of int32 codes whose scale is the product of the first two. float_bias: slot of
            a float bias that is added to the product.
        output: slots of the scale and zero point of its output; None where that is float, or int32 without any scales.
        float_output: whether the output is float, or may be where `output` is left out.
        attributes: those of the float operator that it takes. lacks: those that it does not take, each with what tells
            whether a node can do without.
        defaults: attributes that it needs besides, from float node and opset. extra: those that it has besides, each
            with what tells of a value whether the float operator does the same without.
    """

    name: str
    domain: str = CONTRIB
    float_op: str | None
    formats: tuple[Format, ...]
    operands: Mapping[int, OperandSlots]
    variadic: bool = False
    floats: Mapping[int, int] = field(default_factory=dict)
    weights: tuple[int, ...] = ()
    bias: int | None = None
    float_bias: int | None = None
    output: tuple[int, int] | None = None
    float_output: bool = False
    attributes: tuple[str, ...] = ()
    lacks: Mapping[str, Callable[[ir.Node], bool]] = field(default_factory=dict)
    defaults: Callable[[ir.Node, int], Mapping[str, int]] = lambda node, opset: {}
    extra: Mapping[str, Callable[[Any], bool]] = field(default_factory=dict)

    @property
    def weight_slots(self) -> tuple[int, ...]:
        """Slots of the codes of weights."""
        return tuple(self.operands[operand].codes for operand in self.weights)

    @property
    def returns_sums(self) -> bool:
        """Whether it returns the int32 sums of its products."""
        return self.output is None and not self.float_output

    def operands_of(self, node: ir.Node) -> Mapping[int, OperandSlots]:
        """Return, by operand, the slots that a node of this operator has codes in."""
        if not self.variadic:
            return self.operands
        width = len(self.operands[0])
        return {index: self._repeated(index) for index in range((len(node.inputs) - self.operands[0].codes) // width)}

    def slots(self, operand: int) -> tuple[int | None, ...]:
        """Return the slots of an operand, of `BIAS`, or of `OUTPUT`, which has no codes among the inputs."""
        if operand == OUTPUT:
            return () if self.output is None else (None, *self.output)
        if self.variadic:
            return self._repeated(operand)
        if operand in self.operands:
            return self.operands[operand]
        bias = self.float_bias if self.bias is None else self.bias
        return (self.floats.get(operand, bias if operand == BIAS else None),)

    def order(self, count: int) -> list[int]:
        """Return the `count` operands of a float node, and `OUTPUT`, in the order of their slots."""
        taken = {operand: [slot for slot in self.slots(operand) if slot is not None] for operand in range(-1, count)}
        return sorted((operand for operand in taken if taken[operand]), key=lambda operand: taken[operand])

    def arrange(self, operands: Mapping[int, Sequence[ir.Value | None]]) -> list[ir.Value | None]:
        """Return a node's inputs in the order of their slots; what the operator has no slot for is passed over.

        Args:
            operands: codes (or float value), scale and zero point of each operand, of `BIAS` and of `OUTPUT`.
        """
        placed = {
            slot: value
            for operand, values in operands.items()
            for slot, value in zip(self.slots(operand), values, strict=False)
            if slot is not None and value is not None
        }
        return [placed.get(slot) for slot in range(max(placed) + 1)]

    def lacking(self, node: ir.Node) -> str | None:
        """Return the first attribute of a float node that it neither takes nor can do without, None if absent."""
        missing = (name for name in node.attributes if name not in self.attributes)
        return next((name for name in missing if name not in self.lacks or not self.lacks[name](node)), None)

    def _repeated(self, operand: int) -> OperandSlots:
        first = self.operands[0]
        return OperandSlots(*(slot + operand * len(first) for slot in first if slot is not None))


def _dense(node: ir.Node) -> bool:
    return all(step == 1 for step in node.attributes.get_ints("dilations", ()))


def _unscaled_bias(node: ir.Node) -> bool:
    return node.attributes.get_float("beta", 1.0) == 1.0 or len(node.inputs) < 3 or node.inputs[2] is None


def _softmax(node: ir.Node, opset: int) -> Mapping[str, int]:
    return {"axis": node.attributes.get_int("axis", -1 if opset >= 13 else 1), "opset": opset}


_CALIBRATED, _RUN_TIME, _WEIGHT_ONLY = (Format.QOPERATOR,), (Format.DYNAMIC,), (Format.WEIGHT_ONLY,)
_EITHER = (Format.QOPERATOR, Format.DYNAMIC)
_UNARY = {0: OperandSlots(0, 1, 2)}
_BINARY = {0: OperandSlots(0, 1, 2), 1: OperandSlots(3, 4, 5)}
_UNSCALED = {0: OperandSlots(0, None, 2), 1: OperandSlots(1, None, 3)}
_WINDOW = ("auto_pad", "kernel_shape", "pads", "strides")
_CONV = (*_WINDOW, "dilations", "group")
_CELL = ("activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "input_forget")
_CHANNELS_LAST = {"channels_last": lambda value: not value}

_OPERATORS = (
    QuantizedOperator(
        name="QLinearConv",
        domain="",
        float_op="Conv",
        formats=_CALIBRATED,
        operands=_BINARY,
        output=(6, 7),
        bias=8,
        weights=(1,),
        attributes=_CONV,
    ),
    QuantizedOperator(
        name="QLinearMatMul",
        domain="",
        float_op="MatMul",
        formats=_CALIBRATED,
        operands=_BINARY,
        output=(6, 7),
        weights=(1,),
    ),
    QuantizedOperator(
        name="QGemm",
        float_op="Gemm",
        formats=_CALIBRATED,
        operands=_BINARY,
        bias=6,
        output=(7, 8),
        float_output=True,
        weights=(1,),
        attributes=("alpha", "transA", "transB"),
        lacks={"beta": _unscaled_bias},
    ),
    QuantizedOperator(
        name="MatMulIntegerToFloat",
        float_op="MatMul",
        formats=_EITHER,
        operands={0: OperandSlots(0, 2, 4), 1: OperandSlots(1, 3, 5)},
        float_bias=6,
        float_output=True,
        weights=(1,),
    ),
    QuantizedOperator(name="QLinearAdd", float_op="Add", formats=_CALIBRATED, operands=_BINARY, output=(6, 7)),
    QuantizedOperator(name="QLinearMul", float_op="Mul", formats=_CALIBRATED, operands=_BINARY, output=(6, 7)),
    QuantizedOperator(name="QLinearSigmoid", float_op="Sigmoid", formats=_CALIBRATED, operands=_UNARY, output=(3, 4)),
    QuantizedOperator(
        name="QLinearLeakyRelu",
        float_op="LeakyRelu",
        formats=_CALIBRATED,
        operands=_UNARY,
        output=(3, 4),
        attributes=("alpha",),
    ),
    QuantizedOperator(
        name="QLinearSoftmax",
        float_op="Softmax",
        formats=_CALIBRATED,
        operands=_UNARY,
        output=(3, 4),
        attributes=("axis",),
        defaults=_softmax,
        extra={"opset": lambda value: value >= 13},
    ),
    QuantizedOperator(
        name="QLinearAveragePool",
        float_op="AveragePool",
        formats=_CALIBRATED,
        operands=_UNARY,
        output=(3, 4),
        attributes=(*_WINDOW, "ceil_mode", "count_include_pad"),
        lacks={"dilations": _dense},
        extra=_CHANNELS_LAST,
    ),
    QuantizedOperator(
        name="QLinearGlobalAveragePool",
        float_op="GlobalAveragePool",
        formats=_CALIBRATED,
        operands=_UNARY,
        output=(3, 4),
        extra=_CHANNELS_LAST,
    ),
    QuantizedOperator(
        name="QLinearConcat",
        float_op="Concat",
        formats=_CALIBRATED,
        operands={0: OperandSlots(2, 3, 4)},
        variadic=True,
        output=(0, 1),
        attributes=("axis",),
    ),
    QuantizedOperator(
        name="QLinearWhere",
        float_op="Where",
        formats=_CALIBRATED,
        operands={1: OperandSlots(1, 2, 3), 2: OperandSlots(4, 5, 6)},
        floats={0: 0},
        output=(7, 8),
    ),
    QuantizedOperator(
        name="MatMulInteger", domain="", float_op="MatMul", formats=_RUN_TIME, operands=_UNSCALED, weights=(1,)
    ),
    QuantizedOperator(
        name="ConvInteger",
        domain="",
        float_op="Conv",
        formats=_RUN_TIME,
        operands=_UNSCALED,
        weights=(1,),
        attributes=_CONV,
    ),
    QuantizedOperator(
        name="DynamicQuantizeMatMul",
        float_op="MatMul",
        formats=_RUN_TIME,
        operands={1: OperandSlots(1, 2, 3)},
        floats={0: 0},
        float_bias=4,
        float_output=True,
        weights=(1,),
    ),
    QuantizedOperator(
        name="DynamicQuantizeLSTM",
        float_op="LSTM",
        formats=_RUN_TIME,
        operands={1: OperandSlots(1, 8, 9), 2: OperandSlots(2, 10, 11)},
        floats={operand: operand for operand in (0, 3, 4, 5, 6, 7)},
        float_output=True,
        weights=(1, 2),
        attributes=_CELL,
    ),
    QuantizedOperator(  # projects its input by one weight to queries, keys and values, and attends to them
        name="QAttention",
        float_op=None,
        formats=_EITHER,
        operands={0: OperandSlots(0, 3, 6), 1: OperandSlots(1, 4, 7)},
        float_bias=2,
        float_output=True,
        weights=(1,),
    ),
    QuantizedOperator(
        name="MatMulNBits",
        float_op="MatMul",
        formats=_WEIGHT_ONLY,
        operands={1: OperandSlots(1, 2, 3)},
        floats={0: 0},
        float_bias=5,
        float_output=True,
        weights=(1,),
    ),
    QuantizedOperator(
        name="MatMulBnb4",
        float_op="MatMul",
        formats=_WEIGHT_ONLY,
        operands={1: OperandSlots(1, 2, None)},
        floats={0: 0},
        float_output=True,
        weights=(1,),
    ),
    QuantizedOperator(
        name="GatherBlockQuantized",
        float_op="Gather",
        formats=_WEIGHT_ONLY,
        operands={0: OperandSlots(0, 2, 3)},
        floats={1: 1},
        float_output=True,
        weights=(0,),
    ),
)

QUANTIZED_OPERATORS: Mapping[str, QuantizedOperator] = {entry.name: entry for entry in _OPERATORS}
"""By operator type, which is what plans call a kernel."""

MATMUL_NBITS = "MatMulNBits"
"""The one with an accuracy level."""

_FAMILIES = re.compile(
    r"(DynamicQuantize|Quantize|Dequantize)Linear|QLinear\w+"
    r"|com\.microsoft::((DynamicQuantize|Quantize|Dequantize|QLinear|QOrdered|QEmbed|MatMulInteger)\w+|QMoE)"
)
"""Operators without an entry that work on codes, too."""


def quantized_operator(node: ir.Node) -> QuantizedOperator | None:
    """Return the entry of a node's operator, None if it has none."""
    entry = QUANTIZED_OPERATORS.get(node.op_type)
    return entry if entry is not None and entry.domain == node.domain else None


def works_on_codes(node: ir.Node) -> bool:
    """Return whether a node reads or writes codes by its nature, with an entry here or without."""
    return quantized_operator(node) is not None or _FAMILIES.fullmatch(op_key(node)) is not None
