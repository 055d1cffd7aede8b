"""Which operator of the runtime each node of a quantized model runs as.

The runtime names a fused node after one of its nodes and keeps the name of the value it ends in: where `Conv -> Relu ->
QuantizeLinear` became one QLinearConv, that node produces the codes that the QuantizeLinear produced. So a node is
followed along its values until one of them is found in the optimized graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxq.graph.walk import nodes
from onnxq.runtime.readback import DQ_OPS, Q_OPS, op_name

if TYPE_CHECKING:
    import onnx_ir as ir

# The longest chain that the runtime fuses into one integer kernel is short: Conv, Add, Relu, QuantizeLinear.
_MAX_HOPS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class RunsAs:
    """The operator that a node runs as (`com.microsoft::QLinearAdd`), and whether it computes on integers."""

    op: str
    integer: bool


def runs_as(quantized: ir.Model, optimized: ir.Model) -> dict[str, RunsAs]:
    """Return what each node of a quantized model runs as.

    Args:
        quantized: a model with QuantizeLinear and DequantizeLinear nodes or integer operators, as the runtime loads it.
        optimized: its `optimized_graph(layout=False)`.

    Returns:
        Path name of the node (see `onnxq.graph.walk.nodes`) -> what runs it. Nodes that left no trace (removed, or
        merged into a neighbour of another kind) and quantize and dequantize nodes are missing.
    """
    producers = {
        value.name: node for graph in optimized.graphs() for node in graph for value in node.outputs if value.name
    }
    named = {node.name: node for graph in optimized.graphs() for node in graph if node.name}
    results = {}
    for path, node in nodes(quantized):
        if node.op_type in Q_OPS | DQ_OPS:
            continue
        ran = _search(node, producers)
        if ran is None and node.name in named:
            # Where int8 activations became uint8, or a Transpose moved, values have new names; the node keeps its own.
            runner = named[node.name]
            integer = _on_integers(runner) or _reads_codes(runner) or _is_code(node.outputs[0].dtype)
            ran = RunsAs(op=op_name(runner), integer=integer)
        if ran is not None:
            results[path] = ran
    return results


def _search(node: ir.Node, producers: Mapping[str, ir.Node]) -> RunsAs | None:
    for value, hops in _downstream(node):
        runner = producers.get(value.name or "")
        producer = value.producer()
        if runner is None or producer is None:
            continue
        if producer.op_type in Q_OPS:
            if runner.op_type in Q_OPS:
                continue  # the codes are made by a separate node; look at the value it reads
            return RunsAs(op=op_name(runner), integer=True)
        if hops and not _does_the_work(runner, node, producer):
            return None  # this node is gone
        integer = runner.op_type in DQ_OPS or _on_integers(runner) or _is_code(value.dtype)
        return RunsAs(op=op_name(runner), integer=integer)
    return None


def _does_the_work(runner: ir.Node, node: ir.Node, later: ir.Node) -> bool:
    """Return whether `runner`, which computes the value of `later`, has `node` fused into it."""
    if runner.name == node.name or node.op_type in runner.op_type:
        return True
    if (runner.name, runner.op_type) == (later.name, later.op_type):
        return False  # the later node, unchanged
    read = {value.name for value in node.inputs if value is not None}
    return any(value is not None and value.name in read for value in runner.inputs)


def _downstream(node: ir.Node) -> Iterator[tuple[ir.Value, int]]:
    """Yield the codes of a node's outputs, its outputs, then the same of the nodes behind it, with their distance."""
    level = [node]
    for hops in range(_MAX_HOPS):
        following: list[ir.Node] = []
        for current in level:
            for value in current.outputs:
                users = [use.node for use in value.uses()]
                yield from ((user.outputs[0], hops) for user in users if user.op_type in Q_OPS)
                yield value, hops
                following.extend(user for user in users if user.op_type not in Q_OPS)
        level = following


def _reads_codes(node: ir.Node) -> bool:
    """Return whether a quantize node computes this node's first input: such a node only moves codes."""
    source = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    return source is not None and source.op_type in Q_OPS


def _on_integers(node: ir.Node) -> bool:
    """Return whether a node reads constant codes: a weight, or the zero point that every integer kernel takes."""
    return any(value is not None and value.is_initializer() and _is_code(value.dtype) for value in node.inputs)


def _is_code(dtype: ir.DataType | None) -> bool:
    return dtype is not None and dtype.is_integer() and dtype.bitwidth <= 16
