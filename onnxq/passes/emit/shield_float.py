"""Keep the runtime from quantizing what the plan leaves in float.

    codes -> DequantizeLinear -> Conv -> (Relu, Clip) -> QuantizeLinear

Where a convolution or Gemm with float weights stands so between codes, onnxruntime (1.22 to 1.31 at least; its
WeightBiasQuantization) quantizes the weights itself, one scale for all of them, and the bias to int32, whether it fits
or not.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxq.graph.constants import add_constant, constant_array, constant_tensor
from onnxq.graph.names import names, take_name
from onnxq.graph.walk import input_at, nodes
from onnxq.passes import register_pass
from onnxq.types.plan import Plan

_FIRST_PER_CHANNEL = 13  # opset of DequantizeLinear


@register_pass("shield-float", preserves_semantics=True)
class ShieldFloat(ir.passes.InPlacePass):
    """Give what stays in float between codes another form, in which the runtime lets it be; it computes the same.

    The activations of a convolution are dequantized by a scale for each channel, all of them equal: the runtime asks
    for a single one. A Gemm's bias becomes a matrix of one row: it asks for a vector. What stood so in the source model
    is served as it was.
    """

    def __init__(self, plan: Plan) -> None:
        """Take the plan: nodes that it names were in the source model."""
        super().__init__()
        self.plan = plan

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Go through all graphs."""
        came = {decision.node for decision in self.plan.decisions}
        paths = {node: path for path, node in nodes(model)}
        found = []
        for node in paths:
            ends = _ends(node)
            if ends is not None and not came.issuperset(paths[end] for end in ends):
                found.append((node, ends[0]))
        taken = names(model.graph) if found else set()
        for node, dequantize in found:
            if node.op_type == "Gemm":
                _give_bias_a_row(node, taken)
            elif dequantize.domain or model.opset_imports.get("", 0) >= _FIRST_PER_CHANNEL:
                _dequantize_by_channel(node, dequantize, taken)
        return ir.passes.PassResult(model, modified=bool(found))


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
    held = constant_tensor(bias)
    if bias is not None and (held is None or len(held.shape) != 1):
        return None
    quantize = _reader(node)
    while quantize is not None and quantize.op_type in ("Clip", "Relu") and not quantize.domain:
        quantize = _reader(quantize)
    return None if quantize is None or quantize.op_type != "QuantizeLinear" else (dequantize, quantize)


def _reader(node: ir.Node) -> ir.Node | None:
    """Return the only reader of a node, None if there are none or several."""
    readers = [use.node for use in node.outputs[0].uses()]
    return readers[0] if len(readers) == 1 and readers[0].graph is node.graph else None


def _give_bias_a_row(node: ir.Node, taken: set[str]) -> None:
    weight, graph = constant_tensor(node.inputs[1]), node.graph
    assert weight is not None
    assert isinstance(graph, ir.Graph)
    features = weight.shape.numpy()[0 if node.attributes.get_int("transB", 0) else 1]
    bias = constant_array(node.inputs[2]) if len(node.inputs) > 2 else None
    row = np.zeros((1, features), np.float32) if bias is None else np.broadcast_to(bias, (1, features))
    node.resize_inputs(3)
    node.replace_input_with(2, add_constant(graph, f"{node.name}/bias", np.ascontiguousarray(row), taken))


def _dequantize_by_channel(node: ir.Node, dequantize: ir.Node, taken: set[str]) -> None:
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
            by_channel.append(add_constant(graph, f"{node.name}/{role}", each, taken))
    old, source = dequantize.outputs[0], dequantize.inputs[0]
    added = []
    if by_channel[1:] and by_channel[1].dtype == ir.DataType.INT8:
        # The runtime makes uint8 of int8 where all that reads the codes has one scale: a pair of its own lets it.
        added.append(ir.node("QuantizeLinear", [old, *by_channel], {"axis": 1}, domain=dequantize.domain))
        source = added[0].outputs[0]
        source.name, source.shape = take_name(f"{node.name}/quantized", taken), old.shape
        source.dtype = ir.DataType.INT8
    fresh = ir.Value(name=take_name(f"{node.name}/dequantized", taken), type=old.type, shape=old.shape)
    added.append(
        ir.node("DequantizeLinear", [source, *by_channel], {"axis": 1}, outputs=[fresh], domain=dequantize.domain)
    )
    for new in added:
        new.name = take_name(f"{node.name}/{new.op_type}", taken)
    graph.insert_before(node, added)
    node.replace_input_with(0, fresh)
    if not old.uses() and not old.is_graph_output():
        graph.remove(dequantize, safe=True)
