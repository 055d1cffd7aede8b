"""Which nodes of a model the time of its optimized graph belongs to.

The runtime fuses nodes, changes layouts and inserts conversions, but names survive: a fused node computes the value of
the last node of the group, or is named after one of them with a suffix (`value_nchwc`, `node_token_17`). A node without
a name (reorders, transposes) counts for the node it reads from.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from onnxq.graph.walk import nodes
from onnxq.runtime.profile import NodeTime

if TYPE_CHECKING:
    import onnx_ir as ir

# Suffixes of the runtime and of onnxq's emitters; they are removed one by one until a name is known.
_ADDED = re.compile(
    r"(_token_\d+|_nchwc|_out\d+|_quant|_output_\d+|_\d+"
    r"|/(QuantizeLinear|DequantizeLinear|quantized|dequantized|duplicated|MatMulScaleFusion)|/)$"
)


def node_times(model: ir.Model, optimized: ir.Model, times: Iterable[NodeTime]) -> dict[str, float]:
    """Return the time of each node of a model, in microseconds; nodes that were fused into others are missing.

    Args:
        model: the float model that gives the names; a quantized one must have kept them.
        optimized: graph that was timed, of this model or of one made from it.
        times: of its nodes.
    """
    known: dict[str, str] = {}
    for path, node in nodes(model):
        known.setdefault(node.name or path, path)
        known.update((value.name, path) for value in node.outputs if value.name)
    owners: dict[str, str] = {}
    for node in (each for graph in optimized.graphs() for each in graph):
        owner = _owner(node, known, owners)
        if owner is not None:
            owners[node.name or ""] = owner
    spent: dict[str, float] = defaultdict(float)
    for entry in times:
        owner = owners.get(entry.node)
        if owner is not None:
            spent[owner] += entry.microseconds
    return dict(spent)


def _owner(node: ir.Node, known: dict[str, str], owners: dict[str, str]) -> str | None:
    names = [value.name for value in node.outputs if value.name]
    for name in (*names, node.name):
        owner = _strip(name or "", known)
        if owner is not None:
            return owner
    producers = (value.producer() for value in node.inputs if value is not None)
    return next((owners[each.name or ""] for each in producers if each is not None and each.name in owners), None)


def _strip(name: str, known: dict[str, str]) -> str | None:
    while name not in known:
        shorter = _ADDED.sub("", name)
        if shorter == name:
            return None
        name = shorter
    return known[name]
