"""Writing new nodes one after the other: named, typed, and put in front of what reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxq.ops.quantized import QUANTIZED_OPERATORS
from onnxq.passes.emit.editor import Editor


class NodeBuilder:
    """Nodes to come, in order, for one purpose.

    Attributes:
        nodes: what was written so far; still to be inserted.
        name: what they and their outputs are named after.
    """

    def __init__(self, editor: Editor, name: str) -> None:
        """Begin; see `NodeBuilder`."""
        self.nodes: list[ir.Node] = []
        self._editor = editor
        self.name = name

    def __call__(
        self,
        op: str,
        *inputs: ir.Value | None,
        to: str = "",
        dtype: ir.DataType | None = None,
        shape: ir.Shape | None = None,
        attributes: Mapping[str, Any] | None = None,
        node: str | None = None,
    ) -> ir.Value:
        """Write an operator; return its output.

        Args:
            op: its type.
            inputs: what it reads.
            to: last part of its output's name, "" for the operator's.
            dtype: of its output, where known.
            shape: of its output, where known.
            attributes: of the node.
            node: its name, for one that represents a node of the float model.
        """
        return self.outputs(op, inputs, ((to or f"{op}/output", dtype, shape),), attributes, node=node)[0]

    def outputs(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        outputs: Sequence[tuple[str, ir.DataType | None, ir.Shape | None]],
        attributes: Mapping[str, Any] | None = None,
        *,
        node: str | None = None,
    ) -> Sequence[ir.Value]:
        """Write an operator with several outputs: last part of the name ("" for one left out), type and shape of each.

        Inputs that are left out at the end are not written.
        """
        writer, operator = self._editor.writer, QUANTIZED_OPERATORS.get(op)
        values = [
            ir.val(writer.name(f"{self.name}/{part}") if part else "", dtype=dtype, shape=shape)
            for part, dtype, shape in outputs
        ]
        name, domain = node or writer.name(f"{self.name}/{op}"), "" if operator is None else operator.domain
        written = writer.node(op, inputs, values, attributes=attributes, name=name, domain=domain)
        self.nodes.append(written)
        return written.outputs

    def constant(self, values: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> ir.Value:
        """Return a stored number or small array; equal ones are stored once."""
        array = np.asarray(values, dtype)
        return self._editor.store(f"constant/{array.dtype.name}", array)

    def replace(self, node: ir.Node, results: Sequence[ir.Value]) -> None:
        """Put what was written in front of a node, and `results` in the place of its outputs, except those left out."""
        self._editor.insert_before(node, self.nodes)
        for value, result in zip(node.outputs, results, strict=True):
            if value.name:
                self._editor.replace(value, result)


def unpack_bits(build: NodeBuilder, packed: ir.Value, *, bits: int, shape: Sequence[int]) -> ir.Value:
    """Write what makes one byte of each code of `bits` bits, the last axis packed; return codes of `shape`."""
    bytes_ = build("Unsqueeze", packed, build.constant([-1], np.int64))
    shifted = build("BitShift", bytes_, build.constant(range(0, 8, bits), np.uint8), attributes={"direction": "RIGHT"})
    codes = build("BitwiseAnd", shifted, build.constant([(1 << bits) - 1], np.uint8))
    return build("Reshape", codes, build.constant(shape, np.int64))
