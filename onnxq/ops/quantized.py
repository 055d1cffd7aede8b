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
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

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


Operands: TypeAlias = Mapping[int, OperandSlots]
"""Slots by operand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizedOperator:
    """One quantized operator. "Slot" is an input of it, "operand" an input of the float operator.

    Attributes:
        name: operator type.
        domain: where it is defined.
        float_op: the float operator that it computes; None where no operator of the standard does.
        formats: how its activations get codes: QOPERATOR by calibration, DYNAMIC at run time (its own work where it has
            no slots for them), WEIGHT_ONLY not at all.
        operands: by operand, its slots.
        variadic: whether further operands follow in the same order.
        floats: by operand that is not quantized, its slot.
        weights: operands that are weights.
        bias: slot of int32 codes, whose scale is the product of those of the first two operands.
        float_bias: slot of a float bias that is added to the product.
        output: slots of scale and zero point of its output; None where that is float, or int32 without any scales.
        float_output: whether the output is float, or may be where `output` is left out.
        attributes: those of the float operator that it takes.
        lacks: those of the float operator that it lacks, each with a test whether a node can do without.
        defaults: attributes that it needs besides, from float node and opset.
        extra: attributes that the float operator lacks, each with a test whether a value changes nothing.
    """

    name: str
    domain: str = CONTRIB
    float_op: str | None
    formats: tuple[Format, ...]
    operands: Operands
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

    def operands_of(self, node: ir.Node) -> Operands:
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


_UNARY = {0: OperandSlots(0, 1, 2)}
_BINARY = {0: OperandSlots(0, 1, 2), 1: OperandSlots(3, 4, 5)}
_UNSCALED = {0: OperandSlots(0, None, 2), 1: OperandSlots(1, None, 3)}
_WINDOW = ("auto_pad", "kernel_shape", "pads", "strides")
_CONV = (*_WINDOW, "dilations", "group")
_POOL = (*_WINDOW, "ceil_mode", "count_include_pad")
_CELL = ("activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "input_forget")
_CHANNELS_LAST = {"channels_last": lambda value: not value}


def _calibrated(
    name: str, float_op: str, operands: Operands, output: tuple[int, int], **more: Any
) -> QuantizedOperator:
    return QuantizedOperator(
        name=name, float_op=float_op, formats=(Format.QOPERATOR,), operands=operands, output=output, **more
    )


def _with_weight(name: str, float_op: str | None, formats: str, operands: Operands, **more: Any) -> QuantizedOperator:
    return QuantizedOperator(
        name=name,
        float_op=float_op,
        formats=tuple(map(Format, formats.split())),
        operands=operands,
        **{"weights": (1,), "float_output": True, **more},
    )


_OPERATORS = (
    _calibrated("QLinearConv", "Conv", _BINARY, (6, 7), domain="", weights=(1,), bias=8, attributes=_CONV),
    _calibrated("QLinearMatMul", "MatMul", _BINARY, (6, 7), domain="", weights=(1,)),
    _calibrated(
        "QGemm",
        "Gemm",
        _BINARY,
        (7, 8),
        weights=(1,),
        bias=6,
        float_output=True,
        attributes=("alpha", "transA", "transB"),
        lacks={"beta": _unscaled_bias},
    ),
    _calibrated("QLinearAdd", "Add", _BINARY, (6, 7)),
    _calibrated("QLinearMul", "Mul", _BINARY, (6, 7)),
    _calibrated("QLinearWhere", "Where", {1: OperandSlots(1, 2, 3), 2: OperandSlots(4, 5, 6)}, (7, 8), floats={0: 0}),
    _calibrated("QLinearConcat", "Concat", {0: OperandSlots(2, 3, 4)}, (0, 1), variadic=True, attributes=("axis",)),
    _calibrated("QLinearSigmoid", "Sigmoid", _UNARY, (3, 4)),
    _calibrated("QLinearLeakyRelu", "LeakyRelu", _UNARY, (3, 4), attributes=("alpha",)),
    _calibrated(
        "QLinearSoftmax",
        "Softmax",
        _UNARY,
        (3, 4),
        attributes=("axis",),
        defaults=_softmax,
        extra={"opset": lambda value: value >= 13},
    ),
    _calibrated(
        "QLinearAveragePool",
        "AveragePool",
        _UNARY,
        (3, 4),
        attributes=_POOL,
        lacks={"dilations": _dense},
        extra=_CHANNELS_LAST,
    ),
    _calibrated("QLinearGlobalAveragePool", "GlobalAveragePool", _UNARY, (3, 4), extra=_CHANNELS_LAST),
    _with_weight("MatMulInteger", "MatMul", "dynamic", _UNSCALED, domain="", float_output=False),
    _with_weight("ConvInteger", "Conv", "dynamic", _UNSCALED, domain="", float_output=False, attributes=_CONV),
    _with_weight(
        "MatMulIntegerToFloat",
        "MatMul",
        "qoperator dynamic",
        {0: OperandSlots(0, 2, 4), 1: OperandSlots(1, 3, 5)},
        float_bias=6,
    ),
    _with_weight("DynamicQuantizeMatMul", "MatMul", "dynamic", {1: OperandSlots(1, 2, 3)}, floats={0: 0}, float_bias=4),
    _with_weight(
        "DynamicQuantizeLSTM",
        "LSTM",
        "dynamic",
        {1: OperandSlots(1, 8, 9), 2: OperandSlots(2, 10, 11)},
        floats={operand: operand for operand in (0, 3, 4, 5, 6, 7)},
        weights=(1, 2),
        attributes=_CELL,
    ),
    _with_weight(  # projects its input by one weight to queries, keys and values, and attends to them
        "QAttention",
        None,
        "qoperator dynamic",
        {0: OperandSlots(0, 3, 6), 1: OperandSlots(1, 4, 7)},
        float_bias=2,
    ),
    _with_weight("MatMulNBits", "MatMul", "weight-only", {1: OperandSlots(1, 2, 3)}, floats={0: 0}, float_bias=5),
    _with_weight("MatMulBnb4", "MatMul", "weight-only", {1: OperandSlots(1, 2, None)}, floats={0: 0}),
    _with_weight(
        "GatherBlockQuantized", "Gather", "weight-only", {0: OperandSlots(0, 2, 3)}, floats={1: 1}, weights=(0,)
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
"""Operators without an entry that compute with codes, too."""


def quantized_operator(node: ir.Node) -> QuantizedOperator | None:
    """Return the entry of a node's operator, None if it has none."""
    entry = QUANTIZED_OPERATORS.get(node.op_type)
    return entry if entry is not None and entry.domain == node.domain else None


def expandable(node: ir.Node, fmt: Format) -> QuantizedOperator | None:
    """Return the entry of an operator of a format that a float operator can be written for; None for any other node."""
    entry = quantized_operator(node)
    return entry if entry is not None and entry.float_op and fmt in entry.formats else None


def works_on_codes(node: ir.Node) -> bool:
    """Return whether a node reads or writes codes by its nature, with an entry here or without."""
    return quantized_operator(node) is not None or _FAMILIES.fullmatch(op_key(node)) is not None
