"""Keep onnxruntime's optimizer from moving pairs of int8 into models that it then refuses."""

from __future__ import annotations

import onnx_ir as ir

from onnxq.graph.constants import constant_tensor
from onnxq.graph.walk import scopes
from onnxq.graph.writer import Writer
from onnxq.passes import register_pass

_FIRST_WITH_OUTPUT_DTYPE = 21  # of QuantizeLinear
_MOVERS = frozenset({"MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})


@register_pass("close-pairs", preserves_semantics=True)
class ClosePairs(ir.passes.InPlacePass):
    """Put a QuantizeLinear, DequantizeLinear pair of int8 behind operators that move what such a pair gives.

    From opset 21 on, onnxruntime (1.23 to 1.31 at least) puts one there itself, with `output_dtype` int8; on x86 it
    then turns int8 into uint8, forgets that attribute, and finds its own model invalid: "output_dtype INT8 does not
    match y_zero_point type UINT8". It does so where one reader follows that is not a QuantizeLinear. Values that were
    rounded once stay what they are, whatever moved them.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Close pairs in all scopes; pairs put in are looked at in turn, as they may be moved on."""
        modified = False
        if model.opset_imports.get("", 0) >= _FIRST_WITH_OUTPUT_DTYPE:
            writer = Writer(model)
            for scope in scopes(model):
                for node in scope:
                    if _gives_int8(node):
                        for mover in [use.node for use in node.outputs[0].uses() if _moved_on(*use)]:
                            _close(node, mover, writer)
                            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _gives_int8(node: ir.Node) -> bool:
    """Return whether a node dequantizes int8 that is computed at run time, by one scale and zero point.

    One that gives another type than its scale's, or whose scale is that of a block, has no such pair.
    """
    if node.op_type != "DequantizeLinear" or node.domain or len(node.inputs) < 3:
        return False
    if node.attributes.get_int("block_size", 0) or node.attributes.get_int("output_dtype", 0):
        return False
    codes, scale, zero_point = (constant_tensor(value) for value in node.inputs)
    return (
        codes is None
        and scale is not None
        and zero_point is not None
        and zero_point.dtype == ir.DataType.INT8
        and zero_point.size == 1
    )


def _moved_on(mover: ir.Node, slot: int) -> bool:
    """Return whether a reader moves the values to a single reader that does not quantize them, or out of the graph."""
    if mover.domain or mover.op_type not in _MOVERS or slot:
        return False
    moved = mover.outputs[0]
    readers = [use.node for use in moved.uses()]
    if len(readers) + moved.is_graph_output() != 1:
        return False
    return not (readers and readers[0].op_type == "QuantizeLinear" and not readers[0].domain)


def _close(pair: ir.Node, mover: ir.Node, writer: Writer) -> None:
    """Put a pair of the same scale and zero point behind an operator."""
    moved, graph = mover.outputs[0], mover.graph
    _, scale, zero_point = pair.inputs[:3]
    assert isinstance(graph, ir.Graph)
    assert scale is not None
    name = moved.name or mover.name or ""
    result = ir.Value(name=name, type=moved.type, shape=moved.shape)
    named = writer.name(f"{name}/QuantizeLinear"), writer.name(f"{name}/DequantizeLinear")
    quantize = writer.quantize(moved, scale, zero_point, f"{name}/quantized", name=named[0])
    dequantize = writer.dequantize(quantize.outputs[0], scale, zero_point, result, name=named[1])
    ir.convenience.replace_all_uses_with(moved, result, replace_graph_outputs=True)
    quantize.replace_input_with(0, moved)
    moved.name = writer.name(f"{name}/moved")
    graph.insert_after(mover, [quantize, dequantize])
