"""What every emitter needs to edit a graph: its nodes and values by name, free names, constants on codes.

A model is edited scope by scope, inner ones first: what an inner scope makes of a value reads it as it then is in the
outer one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from onnxq.errors import PlanError
from onnxq.graph.constants import moved_tensor
from onnxq.graph.names import names, take_name
from onnxq.graph.spill import Spill
from onnxq.graph.walk import bodies, nodes
from onnxq.numerics.affine import storage_array
from onnxq.ops import op_key
from onnxq.passes.emit.constants import Chosen, Constants
from onnxq.types.format import Format
from onnxq.types.plan import Action, Decision, Detour, Plan, TensorPlan
from onnxq.types.scheme import PerBlock, PerChannel, QuantParams
from onnxq.types.statistics import Statistics

_LONG = 64  # characters


def editors(
    model: ir.Model,
    plan: Plan,
    fmt: Format,
    statistics: Statistics | None = None,
    chosen: Mapping[str, Chosen] | None = None,
) -> Iterator[Editor]:
    """Yield an editor for each graph of a model in which there is something to do, inner ones first.

    Args:
        model: to edit. plan: to carry out. fmt: whose decisions concern the emitter.
        statistics: that the plan was made from, for weight methods that go by them.
        chosen: codes of weights that are known already, by plan key.

    Raises:
        PlanError: the plan names a node that the model does not have.
    """
    common = _Common(model)
    by_graph: dict[object, list[Decision]] = {}
    for decision in plan.decisions:
        if decision.action is Action.QUANTIZE and decision.format is fmt:
            by_graph.setdefault(common.node(decision).graph, []).append(decision)
    for graph in reversed(bodies(model)):
        if graph in by_graph:
            yield Editor(graph, plan, by_graph[graph], common, statistics=statistics, chosen=chosen)


class _Common:
    """What the editors of a model share.

    Attributes:
        opset: of the ONNX operators. nodes: by path name. values: by name, as they were in the prepared model.
        taken: names in use.
        crossing: values that other scopes than their own read. stored: what was made of those, by place and content.
        spill: where new arrays go.
    """

    def __init__(self, model: ir.Model) -> None:
        self.opset = model.opset_imports.get("", 1)
        self.nodes = dict(nodes(model))
        self.values: dict[str | None, ir.Value] = {}
        for graph in bodies(model):
            held = (*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs))
            self.values.update((value.name, value) for value in held)
        self.taken = names(model.graph) | set(self.nodes)
        self.crossing = {
            name
            for name, value in self.values.items()
            if any(use.node.graph is not value.graph for use in value.uses())
        }
        self.stored: dict[object, ir.Value] = {}
        self.spill = Spill()

    def node(self, decision: Decision) -> ir.Node:
        node = self.nodes.get(decision.node)
        if node is None or op_key(node) != decision.op:
            raise PlanError(
                f"the plan names node '{decision.node}' ({decision.op}), which the model does not have; plan again"
            )
        return node


class Editor:
    """Edits one graph of a model as a plan says.

    Attributes:
        plan: the plan. emitted: plan keys of the tensors that are quantized right behind their producers, in order.
        values: by name, as they were in the prepared model. constants: codes of the plan's constants.
        opset: of the ONNX operators. changed: whether anything was added.
    """

    def __init__(
        self,
        graph: ir.Graph,
        plan: Plan,
        decisions: Sequence[Decision],
        common: _Common,
        *,
        statistics: Statistics | None = None,
        chosen: Mapping[str, Chosen] | None = None,
    ) -> None:
        """Take stock.

        Args:
            graph: to edit. plan: to carry out. decisions: those about nodes of the graph. common: of all editors.
            statistics: that the plan was made from, for weight methods that go by them.
            chosen: codes of weights that are known already, by plan key.
        """
        self.opset = common.opset
        self.plan = plan
        self.changed = False
        self._graph = graph
        self._decisions = decisions
        self._common = common
        self.values = common.values
        self._first = graph[0] if len(graph) else None
        self.emitted = {key: None for decision in decisions for key in decision.outputs.values()}
        self.constants = Constants(plan, self.constant, statistics, chosen)
        self._own = {key for entry in decisions if Detour.OWN_CODES in entry.detours for key in entry.inputs.values()}
        self._contrib = any(Detour.CONTRIB_LINEAR in entry.detours for entry in plan.decisions)

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
        node = self._common.node(decision)
        for slot in decision.inputs:
            if slot >= len(node.inputs) or node.inputs[slot] is None:
                raise PlanError(f"the plan quantizes input {slot} of '{decision.node}', which is empty; plan again")
        return node

    def tensor(self, key: str) -> TensorPlan:
        """Return what the plan says about a tensor of the model.

        Raises:
            PlanError: the plan or the model does not know it.
        """
        tensor = self.plan.tensors.get(key)
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

    def constant(self, name: str) -> npt.NDArray[Any]:
        """Return the float constant of that name.

        Raises:
            PlanError: it is none.
        """
        tensor = moved_tensor(self.values.get(name))
        if tensor is None:
            raise PlanError(f"the plan takes '{name}' for a constant, which it is not; plan again")
        return tensor.numpy()

    def codes_and_params(self, key: str) -> tuple[ir.Value, QuantParams]:
        """Store the codes of a planned constant; return them and their parameters."""
        codes, params = self.constants.codes(key)
        return self.initializer(f"{key}/quantized", storage_array(codes, params.scheme.dtype), of=key), params

    def parameters(self, key: str, params: QuantParams) -> tuple[ir.Value, ir.Value]:
        """Store scale and zero point of a tensor, named after its key."""
        return (
            self.initializer(f"{key}/scale", params.scale, of=key),
            self.initializer(f"{key}/zero_point", storage_array(params.zero_point, params.scheme.dtype), of=key),
        )

    def dequantized(self, key: str) -> ir.Node:
        """Store codes and parameters of a planned constant; return their DequantizeLinear, still to be inserted."""
        codes, params = self.codes_and_params(key)
        scale, zero_point = self.initializer(f"{key}/scale", params.scale, of=key), None
        if params.zero_point.any():
            stored = storage_array(params.zero_point, params.scheme.dtype)
            zero_point = self.initializer(f"{key}/zero_point", stored, of=key)
        return self.dequantize(codes, scale, zero_point, f"{key}/dequantized", params)

    def initializer(self, name: str, array: npt.NDArray[Any], *, of: str | None = None) -> ir.Value:
        """Store an array under `name`, or a variant of it that is still free.

        Args:
            name: wanted. array: of any type.
            of: plan key of the constant it is made from. Where several scopes read that one, the array is stored in its
                scope, once for all of them, unless a decision wants it in the editor's own.
        """
        graph, place = self._graph, None
        source = None if of is None or of in self._own else self.values[self.tensor(of).tensor]
        if source is not None and source.name in self._common.crossing and isinstance(source.graph, ir.Graph):
            graph = source.graph
            place = graph, array.dtype.name, array.shape, hashlib.sha256(array.tobytes()).digest()
            if place in self._common.stored:
                return self._common.stored[place]
        name = self.name(name)
        value = ir.val(name, const_value=ir.tensor(self._common.spill.keep(array), name=name))
        graph.register_initializer(value)
        self.changed = True
        if place is not None:
            self._common.stored[place] = value
        return value

    def quantize(self, source: ir.Value, scale: ir.Value, zero_point: ir.Value, output: str) -> ir.Node:
        """Return a QuantizeLinear of `source`, still to be inserted."""
        node = self._linear("QuantizeLinear", [source, scale, zero_point], output, {})
        node.outputs[0].type = ir.TensorType(zero_point.dtype or ir.DataType.UNDEFINED)
        return node

    def dequantize(
        self, codes: ir.Value, scale: ir.Value, zero_point: ir.Value | None, output: str, params: QuantParams
    ) -> ir.Node:
        """Return a DequantizeLinear of `codes`, still to be inserted; without a zero point where it is 0."""
        granularity = params.scheme.granularity
        attributes = {"axis": granularity.axis} if isinstance(granularity, PerChannel | PerBlock) else {}
        if isinstance(granularity, PerBlock):
            attributes["block_size"] = granularity.size
        inputs = [codes, scale] if zero_point is None else [codes, scale, zero_point]
        node = self._linear("DequantizeLinear", inputs, output, attributes)
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        return node

    def insert_before(self, reader: ir.Node, node: ir.Node) -> None:
        """Insert a node in front of one that reads it."""
        self._graph.insert_before(reader, node)
        self.changed = True

    def insert_behind(self, value: ir.Value, nodes: Sequence[ir.Node]) -> None:
        """Insert nodes, in order, where `value` is first known in this graph."""
        producer = value.producer()
        if producer is not None and producer.graph is self._graph:
            self._graph.insert_after(producer, nodes)
        elif self._first is not None:
            self._graph.insert_before(self._first, nodes)
        self.changed = True

    def stand_in(self, value: ir.Value, result: ir.Value) -> None:
        """Give `result` the name and type of `value`, and its place if it is a graph output."""
        result.type = value.type
        result.metadata_props.update(value.metadata_props)
        result.name, value.name = value.name, self.name(f"{value.name}/float")
        for index, output in enumerate(self._graph.outputs):
            if output is value:
                self._graph.outputs[index] = result

    def replace(self, value: ir.Value, result: ir.Value) -> None:
        """Let a new value take the place, the name and the readers of an old one."""
        result.shape = value.shape
        self.stand_in(value, result)
        value.replace_all_uses_with(result)
        self.values[result.name] = result

    def remove(self, nodes: Iterable[ir.Node]) -> None:
        """Take out nodes that no other node reads."""
        gone = list(nodes)
        self._graph.remove(gone, safe=True)
        self.changed = self.changed or bool(gone)

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

    def name(self, wanted: str) -> str:
        """Return `wanted`, shortened if it is long, or the first numbered variant that the graph does not use yet.

        It is then taken. Exporters join the names of all that they fused; repeated in every new node, these took more
        room than a small model's weights.
        """
        if len(wanted) > _LONG:
            digest = hashlib.sha256(wanted.encode(errors="replace")).hexdigest()[:8]
            wanted = f"{wanted[: _LONG // 2]}~{digest}{wanted[max(wanted.rfind('/'), len(wanted) - _LONG // 2) :]}"
        return take_name(wanted, self._common.taken, second=1)

    def domain(self, op: str) -> str:
        """Return the domain of an operator that is the standard's, unless the plan wants onnxruntime's own there."""
        return "com.microsoft" if self._contrib and op in ("QuantizeLinear", "DequantizeLinear") else ""

    def _linear(self, op: str, inputs: list[ir.Value], output: str, attributes: Mapping[str, Any]) -> ir.Node:
        node = ir.node(op, inputs, attributes, domain=self.domain(op), name=self.name(f"{output}/{op}"))
        node.outputs[0].name, node.outputs[0].shape = self.name(output), inputs[0].shape
        return node
