"""A few nodes in the place of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxq.passes.emit.editor import Editor


class Chain:
    """Nodes that take the place of one, each reading what it is given; the last one's output replaces the old.

    Attributes:
        result: output of the node added last.
    """

    def __init__(self, editor: Editor, node: ir.Node) -> None:
        """Start an empty chain in the place of `node`."""
        self._editor, self._node = editor, node
        self._nodes: list[ir.Node] = []
        self.result: ir.Value = node.outputs[0]

    def add(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        domain: str = "",
        heir: bool = False,
    ) -> ir.Value:
        """Add a node and return its output; trailing empty inputs are left out. The `heir` gets the old node's name."""
        given = list(inputs)
        while given and given[-1] is None:
            given.pop()
        base = self._node.name or self._node.op_type
        name = self._node.name if heir else self._editor.name(f"{base}/{op}")
        node = ir.node(op, given, attributes or {}, domain=domain, name=name)
        self.result = node.outputs[0]
        self.result.name = self._editor.name(f"{base}/{op}/output")
        self._nodes.append(node)
        return self.result

    def number(self, value: float) -> ir.Value:
        """Return a float32 scalar constant."""
        return self._editor.initializer(f"{self._node.name}/factor", np.array(value, np.float32))

    def integers(self, values: Sequence[int], dtype: type[np.integer[Any]] = np.int64) -> ir.Value:
        """Return a vector of integers: a shape, axes, shifts."""
        return self._editor.initializer(f"{self._node.name}/integers", np.array(values, dtype))

    def replace(self) -> None:
        """Put the chain in the node's place."""
        value = self._node.outputs[0]
        for node in self._nodes:
            self._editor.insert_before(self._node, node)
        for use in list(value.uses()):
            use.node.replace_input_with(use.idx, self.result)
        self.result.shape = value.shape
        self._editor.stand_in(value, self.result)
        self._editor.remove([self._node])


def take_apart(chain: Chain, packed: ir.Value, *, bits: int, shape: Sequence[int]) -> ir.Value:
    """Add the nodes that make one byte of each code of `bits` bits, the last axis packed; return codes of `shape`."""
    bytes_ = chain.add("Unsqueeze", [packed, chain.integers([-1])])
    shifts = chain.integers(range(0, 8, bits), np.uint8)
    chain.add("BitShift", [bytes_, shifts], {"direction": "RIGHT"})
    chain.add("BitwiseAnd", [chain.result, chain.integers([(1 << bits) - 1], np.uint8)])
    return chain.add("Reshape", [chain.result, chain.integers(shape)])
