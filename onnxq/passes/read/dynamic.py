"""Products whose activation is quantized at run time, written as the float operator with the weight's codes before it.

    DynamicQuantizeLinear (x) -> MatMulInteger (codes) -> Cast -> Mul (scale of x times scale of the weight)
    DynamicQuantizeLinear (x) -> ConvInteger (codes)   -> Cast -> Mul (the same)
    DynamicQuantizeMatMul (x, codes, scale), MatMulIntegerToFloat (codes of x, codes, both scales)
        become      x -> MatMul or Conv <- DequantizeLinear <- codes

Codes, scales and zero points of weights stay what they are; those of x are gone. Operators: ONNX specification
of MatMulInteger and ConvInteger, opset 10, and DynamicQuantizeLinear, opset 11; for the others
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxq.graph.constants import constant_array, moved_tensor
from onnxq.graph.linear import QUANTIZE
from onnxq.graph.walk import bodies, input_at, nodes
from onnxq.graph.writer import Writer, drop_dead, replace
from onnxq.ops import facts, op_key
from onnxq.ops.quantized import QuantizedOperator, expandable
from onnxq.passes.read.lookups import Wanted
from onnxq.passes.read.qoperator import plain
from onnxq.types.format import Format
from onnxq.types.scheme import QuantType, Scheme

_UINT8 = Scheme(dtype=QuantType.UINT8, symmetric=False)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Product:
    """What a product reads: x in float, codes, scale and zero point of its weight, what is added; and its last node.

    `activation`: how x was quantized.
    """

    x: ir.Value
    activation: Scheme
    codes: ir.Value
    scale: npt.NDArray[np.float32]
    zero_point: ir.Value | None
    end: ir.Node
    bias: ir.Value | None = None


@dataclass(kw_only=True, slots=True)
class Expanded:
    """Path names of the nodes that were written as float ones, with their operator; why others were not.

    `activations`: how their inputs were quantized. `settled`: those that were changed and stay as they are now.
    """

    nodes: dict[str, str] = field(default_factory=dict)
    activations: dict[str, Scheme] = field(default_factory=dict)
    settled: frozenset[str] = frozenset()
    left: dict[str, str] = field(default_factory=dict)


def holds_dynamic(model: ir.Model) -> bool:
    """Return whether there may be something to expand."""
    return any(expandable(node, Format.DYNAMIC) is not None for graph in bodies(model) for node in graph)


def expand_dynamic(model: ir.Model, wanted: Wanted, *, contrib_linear: bool = False) -> Expanded:
    """Write products that quantize at run time as float ones behind DequantizeLinear, in place.

    Args:
        model: to edit.
        wanted: returns whether to rewrite a node.
        contrib_linear: whether DequantizeLinear is that of com.microsoft.
    """
    expanded, writer = Expanded(), Writer(model, contrib_linear=contrib_linear)
    for name, node in list(nodes(model)):
        operator = expandable(node, Format.DYNAMIC)
        op = "" if operator is None else operator.float_op or ""
        if operator is None or not wanted(name, op):
            continue
        product = _product(node, operator)
        why = product if isinstance(product, str) else _expand(node, op, product, writer)
        if why is None and isinstance(product, _Product):
            expanded.nodes[name], expanded.activations[name] = op, product.activation
        elif why:
            expanded.left[name] = why
    return expanded


def _product(node: ir.Node, operator: QuantizedOperator) -> _Product | str:
    """Return the float product that a quantized one represents, or why there is none; "" for one that is calibrated."""
    if operator.float_op == "LSTM":
        return "its weights lie in a layout of onnxruntime's own"
    first, second = ([input_at(node, slot) for slot in operator.slots(operand)] for operand in (0, 1))
    if not operator.returns_sums:
        bias = input_at(node, operator.float_bias)
        if 0 not in operator.operands:  # quantizes its input itself
            x = None if first[0] is None else (first[0], _UINT8)
        elif constant_array(first[1]) is not None:
            return ""
        else:
            x = _rounded(*first)
        return _checked(x, second[0], constant_array(second[1]), second[2], node, bias=bias)
    end = _only_reader(node.outputs[0], "Cast")
    if end is None or end.outputs[0].dtype != ir.DataType.FLOAT:
        return "its sums are read by other operators than Cast to float"
    scales: list[ir.Value] = []
    scale: npt.NDArray[np.float32] | None = None
    while end is not None and not (scales and scale is not None):
        before, end = end, _only_reader(end.outputs[0], "Mul")
        for factor in _factors(end, before):
            array = constant_array(factor)
            if array is None:
                scales.append(factor)
            else:
                scale = array if scale is None else scale * array
    if end is None or len(scales) != 1:
        return "its sums are not multiplied by the scale of its input and that of its weight"
    return _checked(_rounded(first[0], scales[0], first[2]), second[0], scale, second[2], end)


def _factors(node: ir.Node | None, before: ir.Node) -> list[ir.Value]:
    """Return what a Mul behind a node multiplies its output by: a value, or the two that make it up."""
    if node is None:
        return []
    (factor,) = (value for value in node.inputs if value is not before.outputs[0] and value is not None)
    node_before = factor.producer()
    if node_before is not None and op_key(node_before) == "Mul":
        return [value for value in node_before.inputs if value is not None]
    return [factor]


def _only_reader(value: ir.Value, op: str) -> ir.Node | None:
    """Return the node that alone reads a value, once, None if absent or it is of another type."""
    uses = list(value.uses())
    alone = len(uses) == 1 and not value.is_graph_output() and op_key(uses[0].node) == op
    return uses[0].node if alone else None


def _rounded(
    codes: ir.Value | None, scale: ir.Value | None, zero_point: ir.Value | None
) -> tuple[ir.Value, Scheme] | None:
    """Return the float value that codes, with a scale found at run time, represent, and how; None if none."""
    node = None if codes is None else codes.producer()
    x = None if node is None else node.inputs[0]
    if node is None or x is None or scale is None or codes is None or codes.dtype is None:
        return None
    if op_key(node) == "DynamicQuantizeLinear":
        return (x, _UINT8) if scale is node.outputs[1] and zero_point is node.outputs[2] else None
    if op_key(node) not in QUANTIZE or input_at(node, 1) is not scale or codes.dtype.name not in ("INT8", "UINT8"):
        return None
    own = input_at(node, 2)
    zero = constant_array(own)
    if zero_point is not own and not (zero_point is None and zero is not None and not zero.any()):
        return None
    return x, Scheme(dtype=QuantType(codes.dtype.name.lower()), symmetric=own is None or zero is not None)


def _checked(
    x: tuple[ir.Value, Scheme] | None,
    codes: ir.Value | None,
    scale: npt.NDArray[np.float32] | None,
    zero_point: ir.Value | None,
    end: ir.Node,
    *,
    bias: ir.Value | None = None,
) -> _Product | str:
    if x is None:
        return "its input is not rounded by one scale for the whole tensor, found at run time"
    if codes is None or moved_tensor(codes) is None or (zero_point is not None and moved_tensor(zero_point) is None):
        return "the codes or zero points of its weight are computed"
    if scale is None or scale.dtype != np.float32:
        return "the scales of its weight are no float32 constants"
    return _Product(x=x[0], activation=x[1], codes=codes, scale=scale, zero_point=zero_point, end=end, bias=bias)


def _expand(node: ir.Node, op: str, product: _Product, writer: Writer) -> str | None:
    """Write one product as a float operator; return why DequantizeLinear cannot represent its weight."""
    codes, graph = moved_tensor(product.codes), node.graph
    assert codes is not None
    assert isinstance(graph, ir.Graph)
    shape = tuple(codes.shape.numpy())
    channel_axis = facts.get(op).channel_axis
    assert channel_axis is not None
    axis = channel_axis(node, len(shape))
    count = shape[axis]
    zeros = moved_tensor(product.zero_point)
    zero = np.zeros((), codes.dtype.numpy()) if zeros is None else zeros.numpy()
    per_channel = product.scale.size > 1 or zero.size > 1
    place = len(shape) - 1 if op == "Conv" else 1  # of the outputs among the axes of the result, from behind
    fits = product.scale.size == 1 or (product.scale.ndim >= place and product.scale.shape[-place] == count)
    if not fits or any(array.size not in (1, count) for array in (product.scale, zero)) or len(shape) < 2:
        return f"its scales and zero points are not one for each of {count} outputs"
    flat = (-1,) if per_channel else ()
    scale, zero = (
        np.broadcast_to(array.reshape(-1), (count,)) if per_channel else array.reshape(())
        for array in (product.scale, zero)
    )
    stem = plain(product.codes.name)
    zero_point = None
    scale_value = writer.constant(graph, f"{stem}/scale", np.array(scale))
    if zero.any():
        zero_point = writer.constant(graph, f"{stem}/zero_point", np.array(zero).reshape(flat))
    dequantize = writer.dequantize(
        product.codes, scale_value, zero_point, f"{stem}/dequantized", axis=axis if per_channel else None
    )
    old = product.end.outputs[0]
    result = writer.node(
        op,
        [product.x, dequantize.outputs[0]],
        f"{old.name}/float",
        attributes=node.attributes if op == "Conv" else {},
        name=node.name,
        dtype=ir.DataType.FLOAT,
        shape=old.shape,
    )
    steps = [dequantize, result]
    if product.bias is not None:
        added = [result.outputs[0], product.bias]
        steps.append(writer.node("Add", added, f"{old.name}/sum", dtype=ir.DataType.FLOAT, shape=old.shape))
    graph.insert_before(product.end, steps)
    replace(old, steps[-1].outputs[0])
    drop_dead(product.end)
    return None
