"""What every emitter needs to edit a graph: its nodes and values by name, free names, quantized constants.

A model is edited scope by scope, inner ones first: what an inner scope makes of a value reads it as it then is in the
outer one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from onnxq.errors import PlanError
from onnxq.graph.constants import moved_tensor
from onnxq.graph.walk import bodies, nodes
from onnxq.graph.writer import Writer
from onnxq.numerics.affine import storage_array
from onnxq.ops import op_key
from onnxq.passes.emit.constants import Chosen, PlannedConstants
from onnxq.types.format import Format
from onnxq.types.plan import Action, Decision, Detour, Plan, TensorPlan
from onnxq.types.scheme import PerBlock, PerChannel, QuantParams
from onnxq.types.statistics import Statistics

_LONGEST = 64  # characters of a name


def editors(
    model: ir.Model,
    plan: Plan,
    fmt: Format,
    statistics: Statistics | None = None,
    chosen: Mapping[str, Chosen] | None = None,
) -> Iterator[Editor]:
    """Yield an editor for each graph of a model in which there is something to do, inner ones first.

    Args:
        model: to edit.
        plan: to carry out.
        fmt: whose decisions concern the emitter.
        statistics: that the plan was made from, for weight methods that use them.
        chosen: codes of weights that are known already, by plan key.

    Raises:
        PlanError: the plan names a node that the model does not have.
    """
    edited = _EditedModel(model, plan, statistics, chosen)
    by_graph: dict[object, list[Decision]] = {}
    for decision in plan.decisions:
        if decision.action is Action.QUANTIZE and decision.format is fmt:
            by_graph.setdefault(edited.node(decision).graph, []).append(decision)
    for graph in reversed(bodies(model)):
        if graph in by_graph:
            yield Editor(graph, by_graph[graph], edited)


class _EditedModel:
    """What the editors of a model share.

    Attributes:
        plan, statistics, chosen: see `editors`.
        writer: of the model.
        opset: of the ONNX operators.
        values: by name, as they were in the prepared model.
        crossing: those that other scopes than their own read.
    """

    def __init__(
        self, model: ir.Model, plan: Plan, statistics: Statistics | None, chosen: Mapping[str, Chosen] | None
    ) -> None:
        self.plan = plan
        self.statistics = statistics
        self.chosen = chosen
        contrib = any(Detour.CONTRIB_LINEAR in entry.detours for entry in plan.decisions)
        self.writer = Writer(model, contrib_linear=contrib, longest=_LONGEST)
        self.opset = model.opset_imports.get("", 1)
        self._nodes = dict(nodes(model))
        self.values: dict[str | None, ir.Value] = {}
        for graph in bodies(model):
            values = (*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs))
            self.values.update((value.name, value) for value in values)
        self.crossing = {
            name
            for name, value in self.values.items()
            if any(use.node.graph is not value.graph for use in value.uses())
        }

    def node(self, decision: Decision) -> ir.Node:
        node = self._nodes.get(decision.node)
        if node is None or op_key(node) != decision.op:
            raise PlanError(
                f"the plan names node '{decision.node}' ({decision.op}), which the model does not have; plan again"
            )
        return node


class Editor:
    """Edits one graph of a model as a plan says.

    Attributes:
        writer: makes new nodes.
        opset: of the ONNX operators.
        values: by name, as they were in the prepared model.
        emitted: plan keys of the tensors that are quantized right behind their producers, in order.
        constants: codes of the plan's constants.
    """

    def __init__(self, graph: ir.Graph, decisions: Sequence[Decision], edited: _EditedModel) -> None:
        """Take a graph, the decisions about its nodes, and what is shared by all editors of the model."""
        self.writer = edited.writer
        self.opset = edited.opset
        self.values = edited.values
        self._graph = graph
        self._decisions = decisions
        self._edited = edited
        self._first = graph[0] if len(graph) else None
        self.emitted = {key: None for decision in decisions for key in decision.outputs.values()}
        self.constants = PlannedConstants(edited.plan, self._read, edited.statistics, edited.chosen)
        self._own = {key for entry in decisions if Detour.OWN_CODES in entry.detours for key in entry.inputs.values()}

    def decisions(self) -> Iterator[Decision]:
        """Yield the decisions that concern this editor."""
        return iter(self._decisions)

    def readers(self, key: str) -> Iterator[Decision]:
        """Yield the decisions about nodes of the graph that read a quantized tensor."""
        return (decision for decision in self._decisions if key in decision.inputs.values())

    def node(self, decision: Decision) -> ir.Node:
        """Return the node that a decision is about.

        Raises:
            PlanError: there is none, or an input that the plan quantizes is empty.
        """
        node = self._edited.node(decision)
        for slot in decision.inputs:
            if slot >= len(node.inputs) or node.inputs[slot] is None:
                raise PlanError(f"the plan quantizes input {slot} of '{decision.node}', which is empty; plan again")
        return node

    def tensor(self, key: str) -> TensorPlan:
        """Return what the plan says about a tensor of the model.

        Raises:
            PlanError: the plan or the model does not know it.
        """
        tensor = self._edited.plan.tensors.get(key)
        if tensor is None or tensor.tensor not in self.values:
            raise PlanError(f"the plan quantizes tensor '{key}', which the model does not have; plan again")
        return tensor

    def activation_params(self, tensor: TensorPlan) -> QuantParams:
        """Return the parameters of an activation.

        Raises:
            PlanError: it has none.
        """
        if tensor.params is None:
            raise PlanError(f"activation '{tensor.name}' has no parameters in the plan; plan with statistics")
        return tensor.params

    def codes_and_params(self, key: str) -> tuple[ir.Value, QuantParams]:
        """Write the codes of a planned constant; return them and their parameters."""
        codes, params = self.constants.codes(key)
        return self.constant(f"{key}/quantized", storage_array(codes, params.scheme.dtype), of=key), params

    def parameters(self, key: str, params: QuantParams) -> tuple[ir.Value, ir.Value]:
        """Write scale and zero point of a tensor, named after its key."""
        return self.scale(key, params), self.zero_point(key, params)

    def scale(self, key: str, params: QuantParams) -> ir.Value:
        """Write the scale of a tensor, named after its key."""
        return self.constant(f"{key}/scale", params.scale, of=key)

    def zero_point(self, key: str, params: QuantParams) -> ir.Value:
        """Write the zero point of a tensor, named after its key."""
        return self.constant(f"{key}/zero_point", storage_array(params.zero_point, params.scheme.dtype), of=key)

    def constant(self, name: str, array: npt.NDArray[Any], *, of: str | None = None) -> ir.Value:
        """Return a new constant.

        Args:
            name: wanted.
            array: of any type.
            of: plan key of the constant it is made from. Where several scopes read that one, the array is stored in its
                scope, once, unless a decision wants it in the editor's own.
        """
        graph = self._shared_graph(of)
        return (
            self.writer.constant(self._graph, name, array) if graph is None else self.writer.store(graph, name, array)
        )

    def store(self, name: str, array: npt.NDArray[Any], *, of: str | None = None) -> ir.Value:
        """Return a constant, the same for equal arrays; see `constant`."""
        return self.writer.store(self._shared_graph(of) or self._graph, name, array)

    def stored(self, array: npt.NDArray[Any], *, of: str | None = None) -> ir.Value | None:
        """Return what `store` made of an equal array, None if nothing; see `constant`."""
        return self.writer.stored(self._shared_graph(of) or self._graph, array)

    def dequantize(
        self, codes: ir.Value, scale: ir.Value, zero_point: ir.Value | None, output: str, params: QuantParams
    ) -> ir.Node:
        """Return a DequantizeLinear of `codes`, still to be inserted; without a zero point where None is given."""
        granularity = params.scheme.granularity
        axis = granularity.axis if isinstance(granularity, PerChannel | PerBlock) else None
        block_size = granularity.size if isinstance(granularity, PerBlock) else 0
        return self.writer.dequantize(codes, scale, zero_point, output, axis=axis, block_size=block_size)

    def insert_before(self, reader: ir.Node, nodes: ir.Node | Sequence[ir.Node]) -> None:
        """Insert nodes, in order, in front of one that reads them."""
        self._graph.insert_before(reader, nodes)

    def insert_behind(self, value: ir.Value, nodes: Sequence[ir.Node]) -> None:
        """Insert nodes, in order, where `value` is first known in this graph."""
        producer = value.producer()
        if producer is not None and producer.graph is self._graph:
            self._graph.insert_after(producer, nodes)
        elif self._first is not None:
            self._graph.insert_before(self._first, nodes)

    def stand_in(self, value: ir.Value, result: ir.Value) -> None:
        """Give `result` the name and type of `value`, and its place if it is a graph output."""
        result.type = value.type
        result.metadata_props.update(value.metadata_props)
        result.name, value.name = value.name, self.writer.name(f"{value.name}/float")
        for index, output in enumerate(self._graph.outputs):
            if output is value:
                self._graph.outputs[index] = result

    def replace(self, value: ir.Value, result: ir.Value) -> None:
        """Let a new value take the place, the name, the shape and the readers of an old one."""
        result.shape = value.shape
        self.stand_in(value, result)
        value.replace_all_uses_with(result)
        self.values[result.name] = result

    def remove(self, nodes: Iterable[ir.Node]) -> None:
        """Take out nodes that no other node reads."""
        self._graph.remove(nodes, safe=True)

    def drop_unread(self, values: Iterable[ir.Value]) -> None:
        """Take out those of the values that are float constants, or moved from such, which nothing reads any more."""
        for value in values:
            node = value.producer()
            if value.uses() or value.is_graph_input() or value.is_graph_output():
                continue
            if value.is_initializer() and value.graph is not None:
                value.graph.initializers.pop(value.name or "", None)
            elif node is not None and node.graph is not None and moved_tensor(value) is not None:
                read = dict.fromkeys(source for source in node.inputs if source is not None)
                node.graph.remove(node, safe=True)
                self.drop_unread(read)

    def _read(self, name: str) -> npt.NDArray[Any]:
        """Return the float constant of that name.

        Raises:
            PlanError: it is none.
        """
        tensor = moved_tensor(self.values.get(name))
        if tensor is None:
            raise PlanError(f"the plan takes '{name}' for a constant, which it is not; plan again")
        return tensor.numpy()

    def _shared_graph(self, of: str | None) -> ir.Graph | None:
        """Return the graph of a planned constant that several scopes read, None for any other."""
        source = None if of is None or of in self._own else self.values[self.tensor(of).tensor]
        graph = None if source is None or source.name not in self._edited.crossing else source.graph
        return graph if isinstance(graph, ir.Graph) else None
