"""Dynamic: weights become codes now, activations at run time; products are integer, their results float.

    x -> [DynamicQuantizeLinear] -> x codes, x scale, x zero point         (one for all readers of x)
    MatMul, Gemm:  MatMulInteger (int32, exact) -> Cast -> Mul (x scale * w scale) -> Add bias
    Conv:          ConvInteger -> the same
    LSTM:          DynamicQuantizeLSTM of onnxruntime, which quantizes its inputs itself
    Gather:        Gather of codes -> DequantizeLinear, or Cast -> Mul by the gathered scales of the rows

alpha A'B' + beta C: alpha goes into the scale of the weight, beta into a constant C. Operators: ONNX specification of
DynamicQuantizeLinear, MatMulInteger and ConvInteger, opsets 10 and 11. onnxruntime fuses each product into one
DynamicQuantizeMatMul, or MatMulIntegerToFloat where several read the same codes, as fast as if written so: there is no
need for operators of its own. Nor is there for QAttention, one operator for all of self-attention: it takes 0.93 to
0.98 of the time of these forms at batch 1 and 1.14 at batch 8, with the same error (`benchmarks.attention`), and masks
as lengths only, where exported models add theirs to the scores.

With one scale a row (per token) MatMulInteger takes the codes as they are, and what the rows' zero points add, zero
point times the sum of a weight's column, is taken off its result in int32.

Where the plan leaves features of x in float, codes of x and of the weight represent zeros there, and what these
features add is a second, small product in float:

    x -> [Mul by 0 or 1] -> codes as above -> ... -> float -> [Add] -> y
    x -> [Gather of those features] -> [MatMul with their weights] -> [Add]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxq.errors import PlanError
from onnxq.graph.constants import constant_array
from onnxq.graph.walk import input_at
from onnxq.ops.quantized import QUANTIZED_OPERATORS
from onnxq.passes import register_pass
from onnxq.passes.emit.editor import Editor
from onnxq.passes.emit.emitter import DecisionWriter, Emitter
from onnxq.passes.emit.integer_weights import IntegerWeights
from onnxq.passes.emit.node_builder import NodeBuilder
from onnxq.passes.emit.run_time import FLOAT, INT32, RunTimeCodes, quantize_at_run_time
from onnxq.types.format import Format
from onnxq.types.plan import Decision, FloatFeatures
from onnxq.types.scheme import PerChannel, QuantParams, Scheme

_MATMUL, _CONV, _LSTM = (QUANTIZED_OPERATORS[name] for name in ("MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM"))


@register_pass("emit-dynamic", preserves_semantics=False)
class EmitDynamic(Emitter):
    """Replace nodes by integer operators whose activations are quantized at run time (format dynamic)."""

    fmt = Format.DYNAMIC

    def writer(self, editor: Editor) -> DecisionWriter:
        """See `Emitter`."""
        return _DynamicWriter(editor)


class _DynamicWriter(DecisionWriter):
    """Writes the nodes; remembers which activation it has quantized and which weight it has stored."""

    def __init__(self, editor: Editor) -> None:
        super().__init__(editor)
        as_it_is = {
            key
            for decision in editor.decisions()
            for slot, key in decision.inputs.items()
            if _transposition(editor.node(decision), slot) is None
        }
        self._weights = IntegerWeights(editor, as_it_is)
        self._activations: dict[tuple[ir.Value, Scheme, FloatFeatures | None], RunTimeCodes] = {}
        self._picked: dict[tuple[ir.Value, FloatFeatures], ir.Value] = {}
        self._old: dict[ir.Node, None] = {}

    def carry_out(self, decision: Decision) -> None:
        """Write what stands in a node's place."""
        node = self.editor.node(decision)
        kernels: dict[str | None, Callable[[ir.Node, Decision, NodeBuilder], Sequence[ir.Value]]] = {
            _MATMUL.name: self._product,
            _CONV.name: self._convolution,
            _LSTM.name: self._lstm,
            "Gather": self._lookup,
        }
        if decision.kernel not in kernels:
            raise PlanError(f"'{decision.node}': kernel '{decision.kernel}' has no form in format dynamic; plan again")
        build = self._build(decision.node)
        results = kernels[decision.kernel](node, decision, build)
        build.replace(node, results)
        self._old[node] = None

    def finish(self) -> None:
        """Take out the old nodes and the float constants that nothing reads any more."""
        read = [value for node in self._old for value in node.inputs if value is not None]
        self.editor.remove(self._old)
        self.editor.drop_unread(dict.fromkeys(read))

    def _product(self, node: ir.Node, decision: Decision, build: NodeBuilder) -> Sequence[ir.Value]:
        """MatMul and Gemm."""
        key = decision.inputs[1]
        perm = _transposition(node, 1)
        weight, params = self._weights.codes(key, build, perm), self._weights.params(key)
        x = node.inputs[0]
        assert x is not None
        if node.attributes.get_int("transA", 0):
            x = build("Transpose", x, to="transposed", dtype=FLOAT, attributes={"perm": [1, 0]})
            read = quantize_at_run_time(build, x, self._scheme(decision), self.editor.opset)
        else:
            read = self._activation(decision)
        total = build(
            _MATMUL.name,
            *_MATMUL.arrange(
                {0: (read.codes, None, read.zero_point), 1: (weight, None, self._column_zero_point(key, params))}
            ),
            to="accumulated",
            dtype=INT32,
            node=node.name,
        )
        if read.shift is not None:
            sums = self._weights.sums(key, -2 if perm is None else -1)
            excess = build("Mul", read.shift, sums, to="excess", dtype=INT32)
            total = build("Sub", total, excess, to="corrected", dtype=INT32)
        scale = self._weights.scale(key, factor=node.attributes.get_float("alpha", 1.0))
        result = _scaled(build, total, read, scale)
        if self.editor.tensor(key).in_float is not None:
            result = build("Add", result, self._float_part(node, decision, build), to="joined", dtype=FLOAT)
        addend = input_at(node, 2)
        beta = node.attributes.get_float("beta", 1.0)
        if addend is not None and beta != 0.0:
            result = build("Add", result, self._times(addend, beta, build), to="sum", dtype=FLOAT)
        return [result]

    def _convolution(self, node: ir.Node, decision: Decision, build: NodeBuilder) -> Sequence[ir.Value]:
        key = decision.inputs[1]
        weight, params, read = self._weights.codes(key, build), self._weights.params(key), self._activation(decision)
        assert weight.shape is not None
        column = [1] * (len(weight.shape) - 2)
        zero_point = self._weights.zero_point(key) if params.zero_point.any() else None
        if zero_point is not None and params.zero_point.ndim:  # one for all channels is all that the kernel takes
            zero_point = build.constant(params.zero_point.reshape(-1)[0], params.scheme.dtype.value)
        total = build(
            _CONV.name,
            *_CONV.arrange({0: (read.codes, None, read.zero_point), 1: (weight, None, zero_point)}),
            to="accumulated",
            dtype=INT32,
            attributes={name: value for name, value in node.attributes.items() if name in _CONV.attributes},
            node=node.name,
        )
        channels = (int(weight.shape[0]), *column)  # type: ignore[arg-type]
        per_channel = isinstance(params.scheme.granularity, PerChannel)
        scale = params.scale.reshape(channels) if per_channel else params.scale
        result = _scaled(build, total, read, self.editor.store(f"{key}/scale", scale, of=key))
        bias = input_at(node, 2)
        if bias is not None:
            values = constant_array(bias)
            if values is not None:
                addend = self.editor.store(f"{bias.name}/column", values.reshape(channels))
            else:
                shape = build.constant(channels, np.int64)
                addend = build("Reshape", bias, shape, to="bias", dtype=FLOAT, shape=ir.Shape(channels))
            result = build("Add", result, addend, to="sum", dtype=FLOAT)
        return [result]

    def _lstm(self, node: ir.Node, decision: Decision, build: NodeBuilder) -> Sequence[ir.Value]:
        operands: dict[int, tuple[ir.Value | None, ...]] = {slot: (value,) for slot, value in enumerate(node.inputs)}
        for slot in _LSTM.weights:
            key = decision.inputs[slot]
            codes = self._weights.codes(key, build, (0, 2, 1))
            assert codes.shape is not None
            directions, columns = int(codes.shape[0]), int(codes.shape[2])  # type: ignore[arg-type]
            per_channel = isinstance(self._weights.params(key).scheme.granularity, PerChannel)
            shape = (directions, columns) if per_channel else (directions,)
            operands[slot] = (codes, self._weights.scale(key, shape), self._weights.zero_point(key, shape))
        return build.outputs(
            _LSTM.name,
            _LSTM.arrange(operands),
            [(f"output_{slot}" if out.name else "", FLOAT, out.shape) for slot, out in enumerate(node.outputs)],
            {name: value for name, value in node.attributes.items() if name in _LSTM.attributes},
            node=node.name,
        )

    def _lookup(self, node: ir.Node, decision: Decision, build: NodeBuilder) -> Sequence[ir.Value]:
        key, indices = decision.inputs[0], node.inputs[1]
        codes, params = self._weights.codes(key, build), self._weights.params(key)
        assert codes.dtype is not None
        assert codes.shape is not None
        rank, axis = len(codes.shape), node.attributes.get_int("axis", 0)
        shape = node.outputs[0].shape
        rows = build(
            "Gather",
            codes,
            indices,
            to="rows",
            dtype=codes.dtype,
            shape=shape,
            attributes={"axis": axis},
            node=node.name,
        )
        live = bool(params.zero_point.any())
        if not isinstance(params.scheme.granularity, PerChannel):
            inputs = [rows, self._weights.scale(key), *([self._weights.zero_point(key)] if live else [])]
            return [build("DequantizeLinear", *inputs, to="values", dtype=FLOAT, shape=shape)]
        beside = (-1, *[1] * (rank - 1 - axis % rank))  # so that a row's parameter stands beside all its elements
        value = build("Cast", rows, to="float", dtype=FLOAT, shape=shape, attributes={"to": FLOAT.value})
        parameters = [("Mul", "scale", params.scale)]
        if live:
            parameters.insert(0, ("Sub", "zero_point", params.zero_point.astype(np.float32)))
        for op, name, values in parameters:
            if math.prod(values.shape) and (values == values.flat[0]).all():
                own: ir.Value = build.constant(values.flat[0])
            else:
                table = self.editor.store(f"{key}/{name}", values.reshape(beside), of=key)
                own = build("Gather", table, indices, to=f"{name}s", dtype=FLOAT, attributes={"axis": 0})
            value = build(op, value, own, to=op.lower(), dtype=FLOAT, shape=shape)
        return [value]

    def _activation(self, decision: Decision) -> RunTimeCodes:
        """Return what slot 0 reads, quantized; one that several read in the same scheme is quantized once."""
        tensor = self.editor.tensor(decision.inputs[0])
        value = self.editor.values[tensor.tensor]
        place = value, tensor.scheme, tensor.in_float
        if place not in self._activations:
            build, rest = self._build(tensor.tensor), value
            if tensor.in_float is not None:
                rest = self._split(build, value, tensor.in_float)
            self._activations[place] = quantize_at_run_time(build, rest, tensor.scheme, self.editor.opset)
            self.editor.insert_behind(value, build.nodes)
        return self._activations[place]

    def _split(self, build: NodeBuilder, value: ir.Value, features: FloatFeatures) -> ir.Value:
        """Write what picks features, and return the value with zeros in their place."""
        assert value.shape is not None
        if (value, features) not in self._picked:
            places, axis = build.constant(features.indices, np.int64), {"axis": len(value.shape) - 1}
            picked = build("Gather", value, places, to="outliers", dtype=FLOAT, attributes=axis)
            self._picked[value, features] = picked
        return build("Mul", value, build.constant(features.others()), to="others", dtype=FLOAT, shape=value.shape)

    def _float_part(self, node: ir.Node, decision: Decision, build: NodeBuilder) -> ir.Value:
        """Return the product of the features that stay in float, times alpha."""
        key, tensor = decision.inputs[1], self.editor.tensor(decision.inputs[0])
        assert tensor.in_float is not None
        rows = self.editor.constants.float_part(key)
        if _transposition(node, 1) is not None:
            rows = rows.T
        rows = rows * np.float32(node.attributes.get_float("alpha", 1.0))
        picked = self._picked[self.editor.values[tensor.tensor], tensor.in_float]
        return build("MatMul", picked, self.editor.store(f"{key}/float", rows, of=key), to="float_part", dtype=FLOAT)

    def _scheme(self, decision: Decision) -> Scheme:
        return self.editor.tensor(decision.inputs[0]).scheme

    def _column_zero_point(self, key: str, params: QuantParams) -> ir.Value | None:
        """Return the zero points of a product's weight in the shape that MatMulInteger wants, None where they are 0."""
        if not params.zero_point.any():
            return None
        shape = self._weights.shape(key)
        if not params.zero_point.ndim or len(shape) < 3:
            return self._weights.zero_point(key)
        return self._weights.zero_point(key, (*shape[:-2], 1, shape[-1]))

    def _times(self, addend: ir.Value, factor: float, build: NodeBuilder) -> ir.Value:
        if factor == 1.0:
            return addend
        values = constant_array(addend)
        if values is not None:
            return self.editor.store(f"{addend.name}/scaled", values * np.float32(factor))
        return build("Mul", addend, build.constant(factor), to="addend", dtype=FLOAT, shape=addend.shape)

    def _build(self, name: str) -> NodeBuilder:
        return NodeBuilder(self.editor, name)


def _transposition(node: ir.Node, slot: int) -> tuple[int, ...] | None:
    """Return the order in which a node's integer operator wants the axes of a weight, None for as they are."""
    if node.op_type == "Gemm" and slot == 1 and bool(node.attributes.get_int("transB", 0)):
        return 1, 0
    return (0, 2, 1) if node.op_type == "LSTM" and slot in (1, 2) else None


def _scaled(build: NodeBuilder, total: ir.Value, read: RunTimeCodes, scale: ir.Value) -> ir.Value:
    """Return an accumulated int32 result as float: times the scale of the activation times that of the weight."""
    value = build("Cast", total, to="float", dtype=FLOAT, attributes={"to": FLOAT.value})
    if read.per_token:
        columns = build("Mul", value, scale, to="columns", dtype=FLOAT)
        return build("Mul", columns, read.scale, to="product", dtype=FLOAT)
    factor = build("Mul", read.scale, scale, to="factor", dtype=FLOAT, shape=scale.shape)
    return build("Mul", value, factor, to="product", dtype=FLOAT)
