"""Tensors that were joined of parts with very different ranges: one scale would lose a part, wherever it is put on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxq.graph.names import name_of
from onnxq.ops import facts
from onnxq.stages.plan.entries import Candidate, FloatNode
from onnxq.types.plan import Reason

if TYPE_CHECKING:
    import onnx_ir as ir

WIDE = "wide-range"
"""Code of the reason of a node that joins such parts, or hands them on."""
JOINS = frozenset({"Concat", "Where"})
"""Operators that put values of several tensors into one."""


class WideTensors:
    """Follows joined tensors through what rearranges them, in graph order.

    A node that joins in float hands on what no scale holds; quantizing it right behind would lose what was spared. What
    is cut out of it may hold one part or several: it counts as joined, too. Nodes that compute something new from it go
    by their own tensors' ranges.
    """

    def __init__(self) -> None:
        """Start with no such tensor."""
        self._joined: dict[ir.Value, str] = {}

    def against(self, entry: Candidate | FloatNode) -> Reason | None:
        """Return the reason against a candidate that rearranges or joins such a tensor, None if it does not."""
        if not isinstance(entry, Candidate) or not entry.request.format.static or not _hands_on(entry):
            return None
        source = self._source(entry)
        if source is None:
            return None
        value, join = source
        text = f"'{name_of(value)}' holds the parts that '{join}' joined, whose ranges are too different for one scale"
        return Reason(code=WIDE, text=text)

    def follow(self, entry: Candidate | FloatNode, reason: Reason | None) -> None:
        """Note what an entry hands on, with the reason against quantizing it."""
        source = self._source(entry) if _hands_on(entry) else None
        if source is not None:
            self._joined |= dict.fromkeys(entry.node.outputs, source[1])
        elif reason is not None and reason.code == WIDE:
            self._joined[entry.node.outputs[0]] = entry.name

    def _source(self, entry: Candidate | FloatNode) -> tuple[ir.Value, str] | None:
        """Return the first input of a node that is such a tensor, and the node that joined it."""
        for value in entry.node.inputs:
            if value is not None and value in self._joined:
                return value, self._joined[value]
        return None


def _hands_on(entry: Candidate | FloatNode) -> bool:
    """Return whether a node's output holds values of its inputs."""
    return entry.op in JOINS or (entry.op in facts and facts.get(entry.op).rearranges)
