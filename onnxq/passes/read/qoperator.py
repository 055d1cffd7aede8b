"""Integer operators written as what they represent: the float operator between DequantizeLinear and QuantizeLinear.

    QLinearConv (x, w, y)     DequantizeLinear (x), DequantizeLinear (w) -> Conv -> QuantizeLinear (y)
    MaxPool of codes          DequantizeLinear -> MaxPool -> QuantizeLinear, both with the parameters of what it reads

Codes, scales and zero points stay what they are. Order of inputs: ONNX specification of QLinearConv and QLinearMatMul;
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md for the others. What cannot be written so
(a scale that is computed, a layout of onnxruntime's own) stays unchanged.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxq.graph.constants import constant_array, constant_tensor
from onnxq.graph.linear import QUANTIZE
from onnxq.graph.walk import bodies, input_at
from onnxq.graph.writer import Writer, replace
from onnxq.ops import facts, op_key
from onnxq.ops.quantized import BIAS, OperandSlots, QuantizedOperator, expandable
from onnxq.types.format import Format

Parameters: TypeAlias = tuple[ir.Value, ir.Value | None]


def expand(model: ir.Model, *, contrib_linear: bool = False) -> frozenset[str]:
    """Write the calibrated integer operators of a prepared model as float ones between Q and DQ; return their names.

    Args:
        model: to edit.
        contrib_linear: whether Q and DQ are those of com.microsoft, since others are missing.
    """
    rewritten: set[str] = set()
    writer = Writer(model, contrib_linear=contrib_linear)
    for graph in bodies(model):
        rewritten |= _Expansion(graph, writer).carry_out()
    return frozenset(rewritten)


def holds_integer_operators(model: ir.Model) -> bool:
    """Return whether there is something to expand."""
    return any(expandable(node, Format.QOPERATOR) is not None for graph in bodies(model) for node in graph)


class _Expansion:
    """Rewrites one graph, and knows the parameters of the codes so far."""

    def __init__(self, graph: ir.Graph, writer: Writer) -> None:
        self._graph = graph
        self._writer = writer
        self._params: dict[ir.Value, Parameters] = {}
        self._scalars: dict[ir.Value, ir.Value] = {}

    def carry_out(self) -> set[str]:
        names = set()
        for node in list(self._graph):
            key = op_key(node)
            before: list[ir.Node] = []
            operator = expandable(node, Format.QOPERATOR)
            if operator is not None and self._replace(node, operator, before):
                names.add(node.name or "")
            elif key in QUANTIZE and len(node.inputs) > 1 and node.inputs[1] is not None:
                self._params[node.outputs[0]] = node.inputs[1], input_at(node, 2)
            elif key in facts and facts.get(key).rearranges and self._move(node):
                names.add(node.name or "")
        return names

    def _replace(self, node: ir.Node, operator: QuantizedOperator, before: list[ir.Node]) -> bool:
        """Write one integer operator as a float one; return whether that could be done."""
        assert operator.float_op is not None
        attributes = {}
        for name, attribute in node.attributes.items():
            if name not in operator.extra:
                attributes[name] = attribute
            elif not operator.extra[name](attribute.value):
                return False
        if operator.output is not None and input_at(node, operator.output[0]) is None and not operator.float_output:
            return False
        operands = operator.operands_of(node)
        if any(input_at(node, slot) is None for slots in operands.values() for slot in slots[:2]):
            return False
        inputs: dict[int, ir.Value | None] = {index: input_at(node, slot) for index, slot in operator.floats.items()}
        for index, slots in operands.items():
            value = self._dequantized(node, operator, index, slots, before)
            if value is None:
                return False
            inputs[index] = value
        if input_at(node, operator.bias) is not None:
            bias = self._bias(node, operator, before)
            if bias is None:
                return False
            inputs[BIAS] = bias
        old = node.outputs[0]
        result = self._writer.node(
            operator.float_op,
            [inputs.get(slot) for slot in range(max(inputs) + 1)],
            f"{plain(old.name)}",
            attributes=attributes,
            name=node.name,
            dtype=ir.DataType.FLOAT,
            shape=old.shape,
        )
        before.append(result)
        value = result.outputs[0]
        addend = input_at(node, operator.float_bias)
        if addend is not None:
            before.append(
                self._writer.node("Add", [value, addend], f"{old.name}/sum", dtype=ir.DataType.FLOAT, shape=old.shape)
            )
            value = before[-1].outputs[0]
        self._finish(node, [value], None if operator.output is None else _pair(node, operator.output), before)
        return True

    def _move(self, node: ir.Node) -> bool:
        """Put an operator that moves codes between DequantizeLinear and QuantizeLinear."""
        codes = node.inputs[0]
        if codes is None or codes not in self._params or any(value.is_graph_output() for value in node.outputs):
            return False
        scale, zero_point = self._params[codes]
        dequantize = self._dequantize(codes, scale, zero_point, None)
        if dequantize is None:
            return False
        self._graph.insert_before(node, [dequantize])
        node.replace_input_with(0, dequantize.outputs[0])
        for value in list(node.outputs):
            if not value.uses():
                value.type = None
                continue
            uses = list(value.uses())
            value.type, value.name = ir.TensorType(ir.DataType.FLOAT), self._writer.name(plain(value.name))
            quantize = self._quantize(value, (scale, zero_point), f"{value.name}/quantized")
            self._graph.insert_after(node, [quantize])
            for use in uses:
                use.node.replace_input_with(use.idx, quantize.outputs[0])
            self._params[quantize.outputs[0]] = scale, zero_point
        return True

    def _finish(self, node: ir.Node, values: list[ir.Value], params: Parameters | None, before: list[ir.Node]) -> None:
        """Insert what was written, quantize its outputs, and take out the integer operator."""
        results = values
        if params is not None:
            results = []
            for value in values:
                quantize = self._quantize(value, params, f"{value.name}/quantized")
                before.append(quantize)
                results.append(quantize.outputs[0])
                self._params[quantize.outputs[0]] = params
        self._graph.insert_before(node, before)
        for old, new in zip(node.outputs, results, strict=True):
            replace(old, new)
        self._graph.remove(node, safe=True)

    def _dequantized(
        self,
        node: ir.Node,
        operator: QuantizedOperator,
        operand: int,
        slots: OperandSlots,
        before: list[ir.Node],
    ) -> ir.Value | None:
        codes, scale, zero_point = (input_at(node, slot) for slot in slots)
        assert codes is not None
        assert scale is not None
        channel_axis = facts.get(operator.float_op or "").channel_axis if operand in operator.weights else None
        axis = None if channel_axis is None or codes.shape is None else channel_axis(node, len(codes.shape))
        dequantize = self._dequantize(codes, scale, zero_point, axis)
        if dequantize is None:
            return None
        before.append(dequantize)
        return dequantize.outputs[0]

    def _dequantize(
        self, codes: ir.Value, scale: ir.Value, zero_point: ir.Value | None, axis: int | None
    ) -> ir.Node | None:
        """Return a DequantizeLinear; None where the parameters are not constants of a shape that it takes."""
        scale_array = constant_array(scale)
        if scale_array is None or (zero_point is not None and constant_tensor(zero_point) is None):
            return None
        if scale_array.size == 1:
            axis = None
            scale, zero_point = self._reshaped(scale, ()), self._reshaped(zero_point, ())
        else:
            if axis is None or codes.shape is None or codes.shape[axis] != scale_array.size:
                return None
            scale, zero_point = self._reshaped(scale, (-1,)), self._reshaped(zero_point, (-1,))
            if zero_point is not None and zero_point.shape is not None and zero_point.shape[0] != scale_array.size:
                return None
        return self._writer.dequantize(codes, scale, zero_point, f"{plain(codes.name)}/dequantized", axis=axis)

    def _quantize(self, value: ir.Value, params: Parameters, name: str) -> ir.Node:
        scale, zero_point = (self._reshaped(part, ()) for part in params)
        return self._writer.quantize(value, scale, zero_point, name)

    def _reshaped(self, value: Any, shape: tuple[int, ...]) -> Any:
        """Return a constant in another shape: the same one where it has that, else one copy of it."""
        array = None if value is None else constant_array(value)
        if value is None or array is None or array.shape == array.reshape(shape).shape:
            return value
        if value not in self._scalars:
            assert value.graph is not None
            self._scalars[value] = self._writer.constant(value.graph, f"{value.name}/reshaped", array.reshape(shape))
        return self._scalars[value]

    def _bias(self, node: ir.Node, operator: QuantizedOperator, before: list[ir.Node]) -> ir.Value | None:
        """Dequantize int32 codes whose scale is the product of both operands' scales."""
        codes = input_at(node, operator.bias)
        scales = [constant_array(input_at(node, slots.scale)) for slots in operator.operands.values()]
        if codes is None or scales[0] is None or scales[1] is None or codes.shape is None:
            return None
        alpha = np.float32(node.attributes.get_float("alpha", 1.0))
        product = np.asarray(scales[0].reshape(()) * scales[1] * alpha, np.float32)
        product = product.reshape(()) if product.size == 1 else product.reshape(-1)
        if len(codes.shape) > 1 and product.ndim:
            return None
        scale = self._writer.constant(self._graph, f"{plain(codes.name)}/scale", product)
        name, axis = f"{plain(codes.name)}/dequantized", 0 if product.ndim else None
        before.append(self._writer.dequantize(codes, scale, None, name, axis=axis))
        return before[-1].outputs[0]


def _pair(node: ir.Node, slots: tuple[int, int]) -> Parameters | None:
    scale = input_at(node, slots[0])
    return None if scale is None else (scale, input_at(node, slots[1]))


def plain(name: str | None) -> str:
    """Return the name of the float value that codes of a name represent, as quantizers name them."""
    text = name or "value"
    for ending in ("/quantized", "_quantized", "/dequantized", "_DequantizeLinear_Output", "_QuantizeLinear_Output"):
        text = text.removesuffix(ending)
    return text
