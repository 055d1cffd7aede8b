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
        nodes: what was written so far; still to be inserted.
    """

    def __init__(self, editor: Editor, name: str, constants: dict[object, ir.Value]) -> None:
        """Begin.

        Args:
            editor: of the graph. name: what nodes and their outputs are named after.
            constants: the small constants stored so far, for all steps of one emitter.
        """
        self.nodes: list[ir.Node] = []
        self._editor = editor
        self._name = name
        self._constants = constants

    def __call__(
        self,
        op: str,
        *inputs: ir.Value | None,
        to: str,
        dtype: ir.DataType,
        shape: ir.Shape | None = None,
        attributes: Mapping[str, Any] | None = None,
        node: str | None = None,
    ) -> ir.Value:
        """Write an operator; return its output.

        Args:
            op: its type. inputs: what it reads.
            to: last part of its output's name. dtype, shape: of its output; no shape where it is not known.
            attributes: of the node. node: its name, for one that stands for a node of the float model.
        """
        return self.outputs(op, inputs, ((to, dtype, shape),), attributes, node=node)[0]

    def outputs(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        outputs: Sequence[tuple[str, ir.DataType, ir.Shape | None]],
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
            domain=domain,
            outputs=[
                ir.val(self._editor.name(f"{self._name}/{part}") if part else "", dtype=dtype, shape=shape)
                for part, dtype, shape in outputs
            ],
            name=node or self._editor.name(f"{self._name}/{op}"),
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
