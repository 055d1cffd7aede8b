"""Putting nodes and constants into the graphs of a model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxq.graph.linear import CONTRIB
from onnxq.graph.names import names, take_name
from onnxq.graph.spill import Spill
from onnxq.graph.walk import bodies, nodes

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir


class Writer:
    """Makes nodes and constants with names of their own, in any graph of a model."""

    def __init__(self, model: ir.Model, *, contrib_linear: bool = False, longest: int | None = None) -> None:
        """Take stock of a model's names.

        Args:
            model: to write to.
            contrib_linear: whether QuantizeLinear and DequantizeLinear are those of com.microsoft.
            longest: characters of a new name; longer ones are shortened. Exporters join the names of all that they
                fused; repeated in every new node, these took more room than a small model's weights.
        """
        self._model = model
        self._linear_domain = CONTRIB if contrib_linear else ""
        self._longest = longest
        self._taken = names(model.graph) | {path for path, _ in nodes(model)}
        self._spill = Spill()
        self._stored: dict[object, ir.Value] = {}

    def name(self, wanted: str) -> str:
        """Return `wanted`, or a numbered variant of it that is free; it is then taken."""
        if self._longest is not None and len(wanted) > self._longest:
            digest, half = hashlib.sha256(wanted.encode(errors="replace")).hexdigest()[:8], self._longest // 2
            wanted = f"{wanted[:half]}~{digest}{wanted[max(wanted.rfind('/'), len(wanted) - half) :]}"
        return take_name(wanted, self._taken, second=1)

    def step_aside(self, *values: ir.Value | None) -> None:
        """Free the names of constants whose place new ones take."""
        for value in values:
            if value is not None and value.is_initializer() and value.name and not value.is_graph_input():
                old = value.name
                value.name = self.name(f"{old}/before")
                self._taken.discard(old)

    def constant(self, graph: ir.Graph, name: str, content: npt.NDArray[Any] | ir.TensorProtocol) -> ir.Value:
        """Return a new constant of a graph: an array, or a tensor that is computed when its data is read."""
        import onnx_ir as ir

        name = self.name(name)
        stored = content if isinstance(content, ir.TensorProtocol) else ir.tensor(self._spill.keep(content), name=name)
        stored.name = name
        value = ir.val(name, const_value=stored)
        graph.register_initializer(value)
        return value

    def store(self, graph: ir.Graph, name: str, array: npt.NDArray[Any]) -> ir.Value:
        """Return a constant of a graph that holds an array; equal ones are stored once."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        place = _place(graph, array)
        if place not in self._stored:
            self._stored[place] = self.constant(graph, name, array)
        return self._stored[place]

    def stored(self, graph: ir.Graph, array: npt.NDArray[Any]) -> ir.Value | None:
        """Return the constant of a graph that `store` made of an equal array, None if absent."""
        return self._stored.get(_place(graph, np.ascontiguousarray(array).reshape(array.shape)))

    def node(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        output: str | Sequence[ir.Value],
        *,
        attributes: Mapping[str, Any] | None = None,
        name: str | None = None,
        domain: str = "",
        dtype: ir.DataType | None = None,
        shape: ir.Shape | None = None,
    ) -> ir.Node:
        """Return a node, still to be inserted.

        Args:
            op: its type.
            inputs: what it reads; those that are left out at the end are not written.
            output: name wanted for its one output, or all outputs.
            attributes: of the node.
            name: its name; made of the output's, if none is given.
            domain: of the operator.
            dtype: of the one output, where known.
            shape: of the one output, where known.
        """
        import onnx_ir as ir

        given = list(inputs)
        while given and given[-1] is None:
            given.pop()
        if op in ("QuantizeLinear", "DequantizeLinear"):
            domain = domain or self._linear_domain
        if domain:
            self._model.opset_imports.setdefault(domain, 1)
        if isinstance(output, str):
            name = name or self.name(f"{output}/{op}")
            output = [ir.val(self.name(output), dtype=dtype, shape=shape)]
        return ir.node(op, given, attributes, domain=domain, outputs=output, name=name)

    def quantize(
        self,
        source: ir.Value,
        scale: ir.Value,
        zero_point: ir.Value | None,
        output: str,
        *,
        axis: int | None = None,
        name: str | None = None,
        domain: str = "",
    ) -> ir.Node:
        """Return a QuantizeLinear, still to be inserted.

        Args:
            source: float.
            scale: one, or one for each index of `axis`.
            zero_point: of the codes' type; None for 0 of uint8.
            output: name wanted for the codes.
            axis: of the channels.
            name: see `node`.
            domain: see `node`.
        """
        import onnx_ir as ir

        return self.node(
            "QuantizeLinear",
            [source, scale, zero_point],
            output,
            attributes={} if axis is None else {"axis": axis},
            name=name,
            domain=domain,
            dtype=ir.DataType.UINT8 if zero_point is None else zero_point.dtype,
            shape=source.shape,
        )

    def dequantize(
        self,
        codes: ir.Value,
        scale: ir.Value,
        zero_point: ir.Value | None,
        output: str | ir.Value,
        *,
        axis: int | None = None,
        block_size: int = 0,
        name: str | None = None,
        domain: str = "",
    ) -> ir.Node:
        """Return a DequantizeLinear, still to be inserted.

        Args:
            codes: integers.
            scale: float32; one, or one for each index of `axis`, or for each block along it.
            zero_point: of the codes' type; None for 0.
            output: name wanted for the float values, or the value itself.
            axis: of the channels or blocks.
            block_size: of blocks, 0 for none.
            name: see `node`.
            domain: see `node`.
        """
        import onnx_ir as ir

        attributes = {} if axis is None else {"axis": axis}
        return self.node(
            "DequantizeLinear",
            [codes, scale, zero_point],
            output if isinstance(output, str) else [output],
            attributes=attributes | ({"block_size": block_size} if block_size else {}),
            name=name,
            domain=domain,
            dtype=ir.DataType.FLOAT,
            shape=codes.shape,
        )


def _place(graph: ir.Graph, array: npt.NDArray[Any]) -> object:
    """Return what equal arrays of a graph have in common."""
    return graph, array.dtype.name, array.shape, hashlib.sha256(array.reshape(-1).view(np.uint8).data).digest()


def drop_unread(model: ir.Model) -> None:
    """Take out the constants that nothing reads any more."""
    for graph in bodies(model):
        for name, value in list(graph.initializers.items()):
            if not (value.uses() or value.is_graph_output() or value.is_graph_input()):
                del graph.initializers[name]


def drop_dead(node: ir.Node) -> None:
    """Take out a node whose outputs nothing reads any more, and what only it read."""
    graph, dead = node.graph, [node]
    assert graph is not None
    while dead:
        each = dead.pop()
        if each.graph is not graph or any(value.uses() or value.is_graph_output() for value in each.outputs):
            continue
        before = [value.producer() for value in each.inputs if value is not None]
        graph.remove(each, safe=True)
        dead += [source for source in before if source is not None]


def replace(value: ir.Value, result: ir.Value) -> None:
    """Let `result` be read in the place of `value`, and be the graph's output under its name where that is one."""
    graph = value.graph
    for use in list(value.uses()):
        use.node.replace_input_with(use.idx, result)
    outputs = [] if graph is None else graph.outputs
    for index, output in enumerate(outputs):
        if output is value:
            name, value.name = value.name, f"{value.name}/replaced"
            result.name, result.type, result.shape = name, value.type, value.shape
            outputs[index] = result
