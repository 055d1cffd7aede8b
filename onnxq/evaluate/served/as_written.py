"""What the graph says, where integer operators are written out: with the optimizer off these run the same kernels.

    QLinearConv, QLinearMatMul, QLinearSoftmax ...   the float operator between DequantizeLinear and QuantizeLinear
    MatMulInteger (a, b, za, zb)                     Cast (MatMul (Cast (a) - Cast (za), Cast (b) - Cast (zb)))
    ConvInteger (x, w, zx, zw)                       the same with Conv
    MatMulNBits at accuracy level 4                  at level 1, which rounds nothing (only on request)

Sums of float32 stand in for those of integers: exact up to 2^24, and off by 1e-7 of the largest beyond. Operators: ONNX
specification of MatMulInteger and ConvInteger, opset 10.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxq.evaluate.faults import lacks_linear
from onnxq.graph.ownership import own
from onnxq.graph.walk import bodies, input_at, nodes
from onnxq.graph.writer import Writer, replace
from onnxq.ops.quantized import MATMUL_NBITS, QuantizedOperator, quantized_operator
from onnxq.passes.read.qoperator import expand, holds_integer_operators
from onnxq.types.accuracy import EXACT, ROUNDS

if TYPE_CHECKING:
    import onnx_ir as ir

_LEVEL = "accuracy_level"
_PER_CHANNEL = 13  # the first opset whose DequantizeLinear takes a list of scales


def rounds_inputs(model: ir.Model) -> bool:
    """Return whether a model holds MatMulNBits that rounds what it multiplies to 8 bits (accuracy level 4)."""
    return any(_rounds(node) for graph in bodies(model) for node in graph)


def as_written(model: ir.Model, *, exact_inputs: bool = False) -> ir.Model:
    """Return a model that, with the optimizer off, computes what the graph says; the model itself where that does.

    Values keep their names. What cannot be written out (computed scales, operators of other layouts) stays.

    Args:
        model: stays as it is.
        exact_inputs: whether MatMulNBits of accuracy level 4 is one of level 1 here.
    """
    integer = holds_integer_operators(model) and model.opset_imports.get("", 1) >= _PER_CHANNEL
    sums = any(_returns_sums(node) is not None for graph in bodies(model) for node in graph)
    levels = exact_inputs and rounds_inputs(model)
    if not (integer or sums or levels):
        return model
    copy = model.clone()
    own(copy)
    if levels:
        _without_rounding(copy)
    if sums:
        _with_float_sums(copy)
    if integer:
        expand(copy, contrib_linear=lacks_linear(copy.opset_imports.get("", 1)))
        _with_old_names(model, copy)
    return copy


def _rounds(node: ir.Node) -> bool:
    operator = quantized_operator(node)
    level = node.attributes.get_int(_LEVEL, 0)
    return operator is not None and operator.name == MATMUL_NBITS and level == ROUNDS


def _returns_sums(node: ir.Node) -> QuantizedOperator | None:
    """Return the entry of an operator whose output is the int32 sums of its products, None for others."""
    operator = quantized_operator(node)
    return operator if operator is not None and operator.returns_sums else None


def _without_rounding(model: ir.Model) -> None:
    import onnx_ir as ir

    for _, node in nodes(model):
        if _rounds(node):
            node.attributes[_LEVEL] = ir.AttrInt64(_LEVEL, EXACT)


def _with_float_sums(model: ir.Model) -> None:
    """Let float operators add up the products of codes, in place."""
    writer = Writer(model)
    for _, node in list(nodes(model)):
        operator = _returns_sums(node)
        if operator is None:
            continue
        points = [input_at(node, slots.zero_point) for slots in operator.operands.values()]
        if all(map(_is_single, points[:1] if operator.float_op == "MatMul" else points)):
            _write_sums(node, operator, writer)


def _write_sums(node: ir.Node, operator: QuantizedOperator, writer: Writer) -> None:
    """Write one MatMulInteger or ConvInteger as a float operator on integers without their zero points."""
    import onnx_ir as ir

    graph, old, op = node.graph, node.outputs[0], operator.float_op
    assert isinstance(graph, ir.Graph)
    assert op is not None
    steps: list[ir.Node] = []

    def step(kind: str, *inputs: ir.Value, to: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
        attributes = {"to": int(to)} if kind == "Cast" else {}
        steps.append(writer.node(kind, inputs, f"{old.name}/{kind}", attributes=attributes, dtype=to))
        return steps[-1].outputs[0]

    operands = []
    for slots in operator.operands.values():
        codes, point = input_at(node, slots.codes), input_at(node, slots.zero_point)
        assert codes is not None
        value = step("Cast", codes)
        operands.append(value if point is None else step("Sub", value, step("Cast", point)))
    steps.append(writer.node(op, operands, f"{old.name}/{op}", attributes=node.attributes, dtype=ir.DataType.FLOAT))
    result = step("Cast", steps[-1].outputs[0], to=ir.DataType.INT32)
    steps[-1].name, result.shape = node.name, old.shape
    graph.insert_before(node, steps)
    _take_over(old, result)
    graph.remove(node, safe=True)


def _is_single(point: ir.Value | None) -> bool:
    """Return whether a zero point is left out, or one for all elements: a list would not lie along the last axis."""
    if point is None:
        return True
    producer = point.producer()
    if producer is not None and producer.op_type == "DynamicQuantizeLinear":
        return True
    return point.shape is not None and all(extent == 1 for extent in point.shape)


def _take_over(old: ir.Value, new: ir.Value) -> None:
    """Let a value be read in the place of an older one, under its name."""
    name = old.name
    replace(old, new)
    if new.name != name:  # the name of a graph output went over with it
        old.name, new.name = f"{name}/replaced", name


def _with_old_names(model: ir.Model, expanded: ir.Model) -> None:
    """Give outputs that QuantizeLinear now returns the name of the integer operator's output."""
    expanded_nodes = {node.name: node for _, node in nodes(expanded) if node.name}
    taken = {value.name for _, node in nodes(expanded) for value in node.outputs}
    for _, node in nodes(model):
        written = expanded_nodes.get(node.name or "")
        if written is None or written.op_type == node.op_type or len(node.outputs) != 1:
            continue
        name, users = node.outputs[0].name, [use.node for use in written.outputs[0].uses()]
        if name not in taken and len(users) == 1 and users[0].op_type == "QuantizeLinear":
            users[0].outputs[0].name = name
