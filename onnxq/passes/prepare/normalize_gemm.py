"""Bring every Gemm into the form that integer kernels take: alpha = beta = 1, transA = 0, bias of shape (N,)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxq.graph.constants import constant_array
from onnxq.graph.walk import input_at, scopes
from onnxq.passes import register_pass


@register_pass("normalize-gemm", preserves_semantics=True)
class NormalizeGemm(ir.passes.InPlacePass):
    """Fold alpha into a Gemm's constant weight, beta into its constant bias, and give the bias one value a column.

    alpha A' B' + beta C = A' (alpha B') + (beta C). A bias that differs from row to row is no bias to a kernel: it is
    added behind the Gemm. A' of transA = 1 gets a Transpose of its own, which a Gemm in float takes back when the
    runtime optimizes it. What is computed at run time, or not float32, is left as it is.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Normalize in all scopes."""
        changed = False
        for scope in scopes(model):
            for node in list(scope):
                if node.op_type == "Gemm" and not node.domain:
                    changed |= _normalize(node)
        return ir.passes.PassResult(model, modified=changed)


def _normalize(node: ir.Node) -> bool:
    graph = node.graph
    weight = constant_array(node.inputs[1])
    bias = input_at(node, 2)
    values = None if bias is None else constant_array(bias)
    if not isinstance(graph, ir.Graph) or weight is None or weight.dtype != np.float32 or weight.ndim != 2:
        return False
    if bias is not None and (values is None or values.dtype != np.float32):
        return False
    alpha, beta = (node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
    columns = weight.shape[0 if node.attributes.get_int("transB", 0) else 1]
    changed = _transpose(graph, node)
    if alpha != 1.0:
        node.replace_input_with(1, _constant(graph, node, f"{node.inputs[1].name}/alpha", weight * np.float32(alpha)))  # type: ignore[union-attr]
        changed = True
    if values is not None and bias is not None:
        scaled = values * np.float32(beta) if beta != 1.0 else values
        row = scaled.reshape(-1) if scaled.size in (1, columns) and _one_row(scaled) else None
        if row is None:
            _add_behind(graph, node, scaled if beta != 1.0 else None)
            changed = True
        elif beta != 1.0 or values.shape != (columns,):
            name = f"{bias.name}/row"
            node.replace_input_with(2, _constant(graph, node, name, np.broadcast_to(row, (columns,)).copy()))
            changed = True
    for name in ("alpha", "beta"):
        changed |= node.attributes.pop(name, None) is not None
    return changed


def _transpose(graph: ir.Graph, node: ir.Node) -> bool:
    """Put a Transpose in front of a Gemm with transA = 1."""
    source = node.inputs[0]
    if source is None or node.attributes.get_int("transA", 0) == 0:
        return False
    transpose = ir.node("Transpose", [source], {"perm": [1, 0]}, name=f"{node.name}/transA")
    transposed = transpose.outputs[0]
    transposed.name, transposed.type = f"{node.name}/A", source.type
    transposed.shape = None if source.shape is None else ir.Shape([source.shape[1], source.shape[0]])
    graph.insert_before(node, [transpose])
    node.replace_input_with(0, transposed)
    node.attributes.pop("transA")
    return True


def _one_row(values: np.ndarray) -> bool:
    """Whether a bias is the same for every row of the result: its shape is (), (1,), (N,), (1, 1) or (1, N)."""
    return values.ndim < 2 or values.shape[0] == 1


def _add_behind(graph: ir.Graph, node: ir.Node, values: np.ndarray | None) -> None:
    """Take the bias off a Gemm and add it to the result, which keeps its name."""
    bias = node.inputs[2]
    assert bias is not None
    addend = bias if values is None else _constant(graph, node, f"{bias.name}/beta", values)
    result = node.outputs[0]
    add = ir.node("Add", [result, addend], name=f"{node.name}/bias")
    total = add.outputs[0]
    total.type, total.shape = result.type, result.shape
    for use in list(result.uses()):
        if use.node is not add:
            use.node.replace_input_with(use.idx, total)
    for index, output in enumerate(graph.outputs):
        if output is result:
            graph.outputs[index] = total
    total.name, result.name = result.name, f"{result.name}/product"
    graph.insert_after(node, [add])
    node.resize_inputs(2)


def _constant(graph: ir.Graph, node: ir.Node, name: str, values: np.ndarray) -> ir.Value:
    """Add an initializer beside the old one, which others may read."""
    taken = graph.initializers
    name = name if name not in taken else f"{name}/{node.name}"
    value = ir.val(name, const_value=ir.tensor(values, name=name))
    graph.register_initializer(value)
    return value
