"""Keep the runtime from quantizing what the plan leaves in float.

    codes -> DequantizeLinear -> Conv -> (Relu, Clip) -> QuantizeLinear

Where a convolution or Gemm with float weights stands so between codes, onnxruntime (1.22 to 1.31 at least; its
WeightBiasQuantization) quantizes the weights itself, one scale for all of them, and the bias to int32, whether it fits
or not.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxq.graph.constants import constant_array, constant_tensor
from onnxq.graph.walk import input_at, nodes
from onnxq.graph.writer import Writer
from onnxq.passes import register_pass
from onnxq.types.plan import Plan

_FIRST_PER_CHANNEL = 13  # opset of DequantizeLinear


@register_pass("shield-float", preserves_semantics=True)
class ShieldFloat(ir.passes.InPlacePass):
    """Give what stays in float between codes another form, in which the runtime lets it be; it computes the same.

    The activations of a convolution are dequantized by a scale for each channel, all of them equal: the runtime asks
    for a single one. A Gemm's bias becomes a matrix of one row: it asks for a vector. What stood so in the source model
    is served unchanged.
    """

    def __init__(self, plan: Plan) -> None:
        """Take the plan: nodes that it names were in the source model."""
        super().__init__()
        self.plan = plan

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Go through all graphs."""
        source = {decision.node for decision in self.plan.decisions}
        paths = {node: path for path, node in nodes(model)}
        shielded = []
        for node in paths:
            ends = _ends(node)
            if ends is not None and not source.issuperset(paths[end] for end in ends):
                shielded.append((node, ends[0]))
        writer = Writer(model)
        for node, dequantize in shielded:
            if node.op_type == "Gemm":
                _give_bias_a_row(node, writer)
            elif dequantize.domain or model.opset_imports.get("", 0) >= _FIRST_PER_CHANNEL:
                _dequantize_by_channel(node, dequantize, writer)
        return ir.passes.PassResult(model, modified=bool(shielded))


def _ends(node: ir.Node) -> tuple[ir.Node, ir.Node] | None:
    """Return the DequantizeLinear in front and the QuantizeLinear behind that make the runtime quantize a node."""
    if node.domain or node.op_type not in ("Conv", "ConvTranspose", "Gemm"):
        return None
    source, weight = node.inputs[0], constant_tensor(node.inputs[1])
    dequantize = None if source is None else source.producer()
    if dequantize is None or dequantize.op_type != "DequantizeLinear" or dequantize.graph is not node.graph:
        return None
    parameters = [constant_tensor(value) for value in dequantize.inputs[1:] if value is not None]
    if weight is None or weight.dtype != ir.DataType.FLOAT:
        return None
    if any(parameter is None or parameter.size != 1 for parameter in parameters):
        return None
    bias = input_at(node, 2)
    stored = constant_tensor(bias)
    if bias is not None and (stored is None or len(stored.shape) != 1):
        return None
    quantize = _reader(node)
    while quantize is not None and quantize.op_type in ("Clip", "Relu") and not quantize.domain:
        quantize = _reader(quantize)
    return None if quantize is None or quantize.op_type != "QuantizeLinear" else (dequantize, quantize)


def _reader(node: ir.Node) -> ir.Node | None:
    """Return the only reader of a node, None if there are none or several."""
    readers = [use.node for use in node.outputs[0].uses()]
    return readers[0] if len(readers) == 1 and readers[0].graph is node.graph else None


def _give_bias_a_row(node: ir.Node, writer: Writer) -> None:
    weight, graph = constant_tensor(node.inputs[1]), node.graph
    assert weight is not None
    assert isinstance(graph, ir.Graph)
    features = weight.shape.numpy()[0 if node.attributes.get_int("transB", 0) else 1]
    bias = constant_array(node.inputs[2]) if len(node.inputs) > 2 else None
    row = np.zeros((1, features), np.float32) if bias is None else np.broadcast_to(bias, (1, features))
    node.resize_inputs(3)
    node.replace_input_with(2, writer.constant(graph, f"{node.name}/bias", np.ascontiguousarray(row)))


def _dequantize_by_channel(node: ir.Node, dequantize: ir.Node, writer: Writer) -> None:
    graph, weight = node.graph, constant_tensor(node.inputs[1])
    assert isinstance(graph, ir.Graph)
    assert weight is not None
    rows, columns, *_ = weight.shape.numpy()
    channels = rows if node.op_type == "ConvTranspose" else columns * node.attributes.get_int("group", 1)
    by_channel = []
    for role, value in zip(("scale", "zero_point"), dequantize.inputs[1:], strict=False):
        array = constant_array(value)
        if array is not None:  # the zero point may be left out
            each = np.full(channels, array.reshape(()))
            by_channel.append(writer.constant(graph, f"{node.name}/{role}", each))
    scale, zero_point = by_channel[0], by_channel[1] if by_channel[1:] else None
    old, source = dequantize.outputs[0], dequantize.inputs[0]
    assert source is not None
    added = []
    if zero_point is not None and zero_point.dtype == ir.DataType.INT8:
        # The runtime makes uint8 of int8 where all that reads the codes has one scale: a pair of its own lets it.
        name, domain = writer.name(f"{node.name}/QuantizeLinear"), dequantize.domain
        added.append(
            writer.quantize(old, scale, zero_point, f"{node.name}/quantized", axis=1, name=name, domain=domain)
        )
        source = added[0].outputs[0]
    result = ir.Value(name=writer.name(f"{node.name}/dequantized"), type=old.type, shape=old.shape)
    name = writer.name(f"{node.name}/DequantizeLinear")
    added.append(writer.dequantize(source, scale, zero_point, result, axis=1, name=name, domain=dequantize.domain))
    graph.insert_before(node, added)
    node.replace_input_with(0, result)
    if not old.uses() and not old.is_graph_output():
        graph.remove(dequantize, safe=True)
