"""Products in front of a clamp that the runtime takes for a part of their group of Q and DQ.

onnxruntime looks behind some operators for a Relu or Clip that QuantizeLinear makes superfluous. It does where that
node alone reads the product and has one reader itself, whatever its bounds; where no QuantizeLinear then follows,
nothing is fused, and the product runs in float between Q and DQ. With a second reader, or as an output of the graph,
the clamp is let alone, and the product returns float.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from onnxq.ops import facts, op_key
from onnxq.stages.plan.entries import Candidate, FloatNode
from onnxq.targets import Output

if TYPE_CHECKING:
    import onnx_ir as ir

_WHY = "onnxruntime fuses no product whose float output goes to a Relu or Clip with one reader"


def with_outputs_for_clamps(examined: Iterable[Candidate | FloatNode]) -> Iterator[Candidate | FloatNode]:
    """Yield the entries; candidates whose clamp would keep them from returning float are to write codes.

    Where the kernel is one for weights alone, which writes no codes, the entry says that nothing is fused.
    """
    entries = list(examined)
    static = {entry.node: entry for entry in entries if isinstance(entry, Candidate) and entry.request.format.static}
    for entry in entries:
        if not isinstance(entry, Candidate) or not entry.row.takes_clamp or not _is_taken(entry.node, static):
            yield entry
        elif entry.request.format.static:
            row = replace(entry.row, output=Output.REQUIRED, float_kernel="")
            yield replace(entry, row=row, note=f"{_WHY}, so its output is quantized too")
        else:
            yield replace(entry, row=replace(entry.row, fused=""), note=_WHY)


def _is_taken(node: ir.Node, static: dict[ir.Node, Candidate]) -> bool:
    """Return whether a clamp alone reads a node, and may be left with one reader.

    Quantized nodes read one QuantizeLinear together, bodies of one node read through that.
    """
    readers = [use.node for use in node.outputs[0].uses()]
    if len(readers) != 1 or readers[0].graph is not node.graph:
        return False
    clamp = readers[0]
    if op_key(clamp) not in facts or facts.get(op_key(clamp)).clamp is None:
        return False
    value = clamp.outputs[0]
    if value.is_graph_output():
        return False
    edges: set[object] = set()
    for use in value.uses():
        reader = static.get(use.node)
        if use.node.graph is not node.graph:
            edges.add("body")
        elif reader is not None and use.idx in reader.activations:
            edges.add("codes")
        else:
            edges.add((use.node, use.idx))
    return len(edges) == 1
