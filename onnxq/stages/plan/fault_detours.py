"""What a node is written as where its runtime has faults, row by row."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from onnxq.stages.plan.rules import NodeRequest
from onnxq.targets import Row
from onnxq.targets.faults import WriteRequest, avoid
from onnxq.types.accuracy import ROUNDS

if TYPE_CHECKING:
    from collections.abc import Collection

    import onnx_ir as ir

FAULT = "runtime-fault"
"""Code of the reason of nodes that stay in float because every kernel for them meets a fault."""


class Around:
    """Returns for each row that would do how to write one node, and remembers whether any was refused.

    Attributes:
        refused: whether a row was refused so far.
    """

    def __init__(self, node: ir.Node, present: Collection[str], opset: int) -> None:
        """Take the node, the faults of its runtime by name, and the opset of the model."""
        self.refused = False
        self._node = node
        self._present = present
        self._opset = opset

    def refuses(self, row: Row, request: NodeRequest, slots: tuple[int, ...]) -> str | None:
        """Return why a row cannot be written without a fault, None if it can; `slots`: of the weights."""
        written = self._avoid(row, request, slots)
        if isinstance(written, WriteRequest):
            return None
        self.refused = True
        return written

    def written(self, row: Row, request: NodeRequest, slots: tuple[int, ...]) -> tuple[WriteRequest, NodeRequest]:
        """Return how a row that is not refused is written, and what is wanted as far as it has that."""
        written = self._avoid(row, request, slots)
        assert isinstance(written, WriteRequest)
        return written, replace(request, weights=written.weights)

    def _avoid(self, row: Row, request: NodeRequest, slots: tuple[int, ...]) -> WriteRequest | str:
        usual = WriteRequest(
            node=self._node,
            opset=self._opset,
            row=row,
            activations=request.activations,
            weights=request.weights,
            slots=slots,
            portable=request.portable,
            accuracy_level=request.accuracy_level or ROUNDS,
        )
        return avoid(usual, self._present)
