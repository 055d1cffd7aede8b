"""Keep onnxruntime's optimizer from moving pairs of int8 into models that it then refuses."""

from __future__ import annotations

import onnx_ir as ir

from onnxq.graph.constants import constant_tensor
from onnxq.graph.names import names, take_name
from onnxq.graph.walk import scopes
from onnxq.passes import register_pass

_FIRST_WITH_OUTPUT_DTYPE = 21  # of QuantizeLinear
_MOVERS = frozenset({"MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})


@register_pass("close-pairs", preserves_semantics=True)
class ClosePairs(ir.passes.InPlacePass):
    """Put a QuantizeLinear, DequantizeLinear pair of int8 behind operators that move what such a pair gives.

    From opset 21 on, onnxruntime (1.23 to 1.31 at least) puts one there itself, with `output_dtype` int8; on x86 it
    then turns int8 into uint8, forgets that attribute, and finds its own model invalid: "output_dtype INT8 does not
    match y_zero_point type UINT8". It does so where one reader follows that is no QuantizeLinear. Values that were
    rounded once stay what they are, whatever moved them.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Close pairs in all scopes; pairs put in are looked at in turn, as they may be moved on."""
        modified = False
        if model.opset_imports.get("", 0) >= _FIRST_WITH_OUTPUT_DTYPE:
            taken: set[str] = set()
            for scope in scopes(model):
                for node in scope:
                    if _gives_int8(node):
                        for mover in [use.node for use in node.outputs[0].uses() if _moved_on(*use)]:
                            taken = taken or names(model.graph)
                            _close(node, mover, taken)
                            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _gives_int8(node: ir.Node) -> bool:
    """Tell whether a node dequantizes int8 that is computed at run time, by one scale and zero point.

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
    """Tell whether a reader moves the values to a single reader that does not quantize them, or out of the graph."""
    if mover.domain or mover.op_type not in _MOVERS or slot:
        return False
    moved = mover.outputs[0]
    readers = [use.node for use in moved.uses()]
    if len(readers) + moved.is_graph_output() != 1:
        return False
    return not (readers and readers[0].op_type == "QuantizeLinear" and not readers[0].domain)


def _close(pair: ir.Node, mover: ir.Node, taken: set[str]) -> None:
    """Put a pair of the same scale and zero point behind an operator."""
    moved, graph = mover.outputs[0], mover.graph
    assert isinstance(graph, ir.Graph)
    name = moved.name or mover.name or ""
    fresh = ir.Value(name=name, type=moved.type, shape=moved.shape)  # what stands for the value from here on
    quantize = ir.node("QuantizeLinear", [moved, *pair.inputs[1:3]], name=take_name(f"{name}/QuantizeLinear", taken))
    codes = quantize.outputs[0]
    codes.name, codes.shape = take_name(f"{name}/quantized", taken), moved.shape
    codes.type = ir.TensorType(ir.DataType.INT8)
    again = ir.node(
        "DequantizeLinear",
        [codes, *pair.inputs[1:3]],
        outputs=[fresh],
        name=take_name(f"{name}/DequantizeLinear", taken),
    )
    ir.convenience.replace_all_uses_with(moved, fresh, replace_graph_outputs=True)
    quantize.replace_input_with(0, moved)
    moved.name = take_name(f"{name}/moved", taken)
    graph.insert_after(mover, [quantize, again])
