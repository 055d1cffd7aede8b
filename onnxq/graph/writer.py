"""Putting nodes and constants into a graph that holds quantized parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnxq.graph.names import names, take_name
from onnxq.graph.spill import Spill
from onnxq.graph.walk import bodies

if TYPE_CHECKING:
    import onnx_ir as ir


_LINEAR = ("QuantizeLinear", "DequantizeLinear")


class Writer:
    """Makes nodes and constants with names of their own, in any graph of a model."""

    def __init__(self, model: ir.Model, *, contrib_linear: bool = False) -> None:
        """Take a model's names; `contrib_linear`: QuantizeLinear and DequantizeLinear are those of com.microsoft."""
        self._model = model
        self._contrib = _LINEAR if contrib_linear else ()
        self._taken = names(model.graph)
        self._spill = Spill()

    def name(self, wanted: str) -> str:
        """Return `wanted`, or a numbered variant of it that is free; it is then taken."""
        return take_name(wanted, self._taken, second=1)

    def step_aside(self, *values: ir.Value | None) -> None:
        """Free the names of constants whose place new ones take."""
        for value in values:
            if value is not None and value.is_initializer() and value.name and not value.is_graph_input():
                old = value.name
                value.name = self.name(f"{old}/before")
                self._taken.discard(old)

    def constant(self, graph: ir.Graph, name: str, tensor: Any) -> ir.Value:
        """Store an array, or a tensor that is computed when it is asked for."""
        import onnx_ir as ir

        name = self.name(name)
        held = tensor if isinstance(tensor, ir.TensorProtocol) else ir.tensor(self._spill.keep(tensor), name=name)
        held.name = name
        value = ir.val(name, const_value=held)
        graph.register_initializer(value)
        return value

    def node(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        output: str,
        *,
        attributes: Sequence[ir.Attr] | Mapping[str, Any] = (),
        name: str | None = None,
        dtype: ir.DataType | None = None,
        shape: ir.Shape | None = None,
    ) -> ir.Node:
        """Return a node of the standard's operators, or what replaces them, with one output, still to be inserted."""
        import onnx_ir as ir

        given, domain = list(inputs), "com.microsoft" if op in self._contrib else ""
        if domain:
            self._model.opset_imports.setdefault(domain, 1)
        while given and given[-1] is None:
            given.pop()
        return ir.node(
            op,
            given,
            attributes if isinstance(attributes, Mapping) else {each.name: each for each in attributes},
            domain=domain,
            outputs=[ir.val(self.name(output), dtype=dtype, shape=shape)],
            name=name or self.name(f"{output}/{op}"),
        )


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
