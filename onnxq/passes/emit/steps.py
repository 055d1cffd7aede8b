"""Writing new nodes one behind the other: named, typed, and put in front of what reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxq.passes.emit.editor import Editor


class Steps:
    """Nodes to come, in order, for one purpose.

    Attributes:
        nodes: what was written so far; still to be inserted. name: what they and their outputs are named after.
    """

    def __init__(self, editor: Editor, name: str, constants: dict[object, ir.Value]) -> None:
        """Begin.

        Args:
            editor: of the graph. name: what nodes and their outputs are named after.
            constants: the small constants stored so far, for all steps of one emitter.
        """
        self.nodes: list[ir.Node] = []
        self._editor = editor
        self.name = name
        self._constants = constants

    def __call__(
        self,
        op: str,
        *inputs: ir.Value | None,
        to: str = "",
        dtype: ir.DataType | None = None,
        shape: ir.Shape | None = None,
        attributes: Mapping[str, Any] | None = None,
        node: str | None = None,
        domain: str = "",
    ) -> ir.Value:
        """Write an operator; return its output.

        Args:
            op: its type. inputs: what it reads.
            to: last part of its output's name, "" for the operator's. dtype, shape: of its output, where known.
            attributes: of the node. node: its name, for one that stands for a node of the float model.
            domain: of the operator.
        """
        name = to or f"{op}/output"
        return self.outputs(op, inputs, ((name, dtype, shape),), attributes, node=node, domain=domain)[0]

    def outputs(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        outputs: Sequence[tuple[str, ir.DataType | None, ir.Shape | None]],
        attributes: Mapping[str, Any] | None = None,
        *,
        node: str | None = None,
        domain: str = "",
    ) -> Sequence[ir.Value]:
        """Write an operator with several outputs: last part of the name ("" for one left out), type and shape of each.

        Inputs that are left out at the end are not written.
        """
        given = list(inputs)
        while given and given[-1] is None:
            given.pop()
        written = ir.node(
            op,
            given,
            dict(attributes or {}),
            domain=domain or self._editor.domain(op),
            outputs=[
                ir.val(self._editor.name(f"{self.name}/{part}") if part else "", dtype=dtype, shape=shape)
                for part, dtype, shape in outputs
            ],
            name=node or self._editor.name(f"{self.name}/{op}"),
        )
        self.nodes.append(written)
        return written.outputs

    def constant(self, values: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> ir.Value:
        """Return a stored number or small array; equal ones are stored once."""
        array = np.asarray(values, dtype)
        place = (array.dtype.name, array.shape, array.tobytes())
        if place not in self._constants:
            self._constants[place] = self._editor.initializer(f"constant/{array.dtype.name}", array)
        return self._constants[place]

    def replace(self, node: ir.Node, results: Sequence[ir.Value]) -> None:
        """Put what was written in front of a node whose outputs, but for those left out, `results` stand for."""
        for step in self.nodes:
            self._editor.insert_before(node, step)
        for value, result in zip(node.outputs, results, strict=True):
            if value.name:
                self._editor.replace(value, result)


def take_apart(steps: Steps, packed: ir.Value, *, bits: int, shape: Sequence[int]) -> ir.Value:
    """Write what makes one byte of each code of `bits` bits, the last axis packed; return codes of `shape`."""
    bytes_ = steps("Unsqueeze", packed, steps.constant([-1], np.int64))
    shifted = steps("BitShift", bytes_, steps.constant(range(0, 8, bits), np.uint8), attributes={"direction": "RIGHT"})
    codes = steps("BitwiseAnd", shifted, steps.constant([(1 << bits) - 1], np.uint8))
    return steps("Reshape", codes, steps.constant(shape, np.int64))
