"""QDQ: the float operators stay, between QuantizeLinear and DequantizeLinear; onnxruntime fuses each group.

    activation:  producer -> [QuantizeLinear -> DequantizeLinear] -> reader
    weight:      codes -> [DequantizeLinear] -> reader          (the float copy is gone)
    bias:        int32 codes -> [DequantizeLinear] -> reader    (scale = scale of activation x scale of weight)

A node whose decision lists an output has that output quantized right behind it, and every reader gets the quantized
value. Otherwise only the readers whose decisions name the tensor do. Operators: ONNX specification of QuantizeLinear
and DequantizeLinear, opset 10 (per tensor) and 13 (per channel).
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from onnxq.errors import PlanError
from onnxq.graph.constants import constant_array
from onnxq.numerics.affine import storage_array
from onnxq.passes import register_pass
from onnxq.passes.emit.constants import Constants
from onnxq.types.plan import Action, Decision, Plan, Role, TensorPlan
from onnxq.types.scheme import PerChannel, QuantParams


@register_pass("emit-qdq", preserves_semantics=False)
class EmitQdq(ir.passes.InPlacePass):
    """Put QuantizeLinear and DequantizeLinear where the plan says (format qdq)."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the model; raises PlanError if the plan does not fit it."""
        editor = _Editor(model.graph, self.plan)
        for decision in self.plan.decisions:
            if decision.action is Action.QUANTIZE:
                editor.carry_out(decision)
        editor.drop_unread()
        return ir.passes.PassResult(model, modified=editor.changed)


class _Editor:
    """Edits one graph; remembers which quantized form of which tensor it has made."""

    def __init__(self, graph: ir.Graph, plan: Plan) -> None:
        self.changed = False
        self._graph = graph
        self._plan = plan
        self._nodes = {node.name: node for node in graph}
        self._values = {value.name: value for value in (*graph.inputs, *graph.initializers.values())}
        self._values |= {value.name: value for node in graph for value in node.outputs}
        self._taken = {name for name in self._values if name} | {name for name in self._nodes if name}
        self._made: dict[str, ir.Value] = {}
        self._replaced: list[ir.Value] = []
        self._constants = Constants(plan, self._read)
        self._first = graph[0] if len(graph) else None
        # Outputs are quantized before any reader of theirs is visited: a graph may list a branch's end first.
        self._emitted = {
            key
            for decision in plan.decisions
            if decision.action is Action.QUANTIZE
            for key in decision.outputs.values()
        }

    def carry_out(self, decision: Decision) -> None:
        """Rewire one node's inputs and quantize its listed outputs."""
        node = self._nodes.get(decision.node)
        if node is None or _op(node) != decision.op:
            raise PlanError(
                f"the plan names node '{decision.node}' ({decision.op}), which the model does not have; plan again"
            )
        for slot, key in decision.inputs.items():
            value = node.inputs[slot] if slot < len(node.inputs) else None
            if value is None:
                raise PlanError(f"the plan quantizes input {slot} of '{decision.node}', which is empty; plan again")
            quantized = self._dequantized(key, node)
            if value is not quantized:
                node.replace_input_with(slot, quantized)
                self._replaced.append(value)
        for key in decision.outputs.values():
            self._dequantized(key, node)

    def drop_unread(self) -> None:
        """Take out the float constants that nothing reads any more."""
        for value in self._replaced:
            if (
                value.is_initializer()
                and not value.uses()
                and not value.is_graph_input()
                and not value.is_graph_output()
            ):
                self._graph.initializers.pop(value.name or "", None)

    def _dequantized(self, key: str, reader: ir.Node) -> ir.Value:
        """Return the dequantized form of a planned tensor, making it on first use."""
        if key not in self._made:
            tensor = self._plan.tensors.get(key)
            if tensor is None or tensor.tensor not in self._values:
                raise PlanError(f"the plan quantizes tensor '{key}', which the model does not have; plan again")
            self.changed = True
            make = self._activation if tensor.role is Role.ACTIVATION else self._constant
            self._made[key] = make(tensor, reader)
        return self._made[key]

    def _activation(self, tensor: TensorPlan, _: ir.Node) -> ir.Value:
        value = self._values[tensor.tensor]
        if tensor.params is None:
            raise PlanError(f"activation '{tensor.name}' has no parameters in the plan; plan with statistics")
        replaces = tensor.name in self._emitted
        source, before = value, list(value.uses())
        if not replaces and tensor.tensor in self._emitted:
            source = self._dequantized(tensor.tensor, _)
        scale, zero_point = self._parameters(tensor.name, tensor.params)
        codes = self._node("QuantizeLinear", [source, scale, zero_point], f"{tensor.name}/quantized", {})
        codes.type, codes.shape = ir.TensorType(zero_point.dtype or ir.DataType.UNDEFINED), value.shape
        result = self._node("DequantizeLinear", [codes, scale, zero_point], f"{tensor.name}/dequantized", {})
        result.type, result.shape = ir.TensorType(ir.DataType.FLOAT), value.shape
        nodes = [node for node in (codes.producer(), result.producer()) if node is not None]
        anchor = source.producer()
        if anchor is not None:
            self._graph.insert_after(anchor, nodes)
        elif self._first is not None:
            self._graph.insert_before(self._first, nodes)
        if replaces:
            for use in before:
                use.node.replace_input_with(use.idx, result)
            self._keep_output_name(value, result)
        return result

    def _keep_output_name(self, value: ir.Value, result: ir.Value) -> None:
        """Let `result` stand in for a graph output, under the name the model's user knows."""
        if not value.is_graph_output():
            return
        for index, output in enumerate(self._graph.outputs):
            if output is value:
                name, value.name = value.name, self._name(f"{value.name}/float")
                result.name, result.type = name, value.type
                result.metadata_props.update(value.metadata_props)
                self._graph.outputs[index] = result

    def _constant(self, tensor: TensorPlan, reader: ir.Node) -> ir.Value:
        codes, params = self._constants.codes(tensor.name)
        stored = self._initializer(f"{tensor.name}/quantized", storage_array(codes, params.scheme.dtype))
        scale, zero_point = self._parameters(tensor.name, params)
        granularity = params.scheme.granularity
        attributes = {"axis": granularity.axis} if isinstance(granularity, PerChannel) else {}
        result = self._node("DequantizeLinear", [stored, scale, zero_point], f"{tensor.name}/dequantized", attributes)
        result.type, result.shape = ir.TensorType(ir.DataType.FLOAT), stored.shape
        node = result.producer()
        assert node is not None
        self._graph.insert_before(reader, node)
        return result

    def _parameters(self, key: str, params: QuantParams) -> tuple[ir.Value, ir.Value]:
        return (
            self._initializer(f"{key}/scale", params.scale),
            self._initializer(f"{key}/zero_point", storage_array(params.zero_point, params.scheme.dtype)),
        )

    def _initializer(self, name: str, array: Any) -> ir.Value:
        name = self._name(name)
        value = ir.val(name, const_value=ir.tensor(array, name=name))
        self._graph.register_initializer(value)
        return value

    def _node(self, op: str, inputs: list[ir.Value], output: str, attributes: dict[str, Any]) -> ir.Value:
        node = ir.node(op, inputs, attributes, name=self._name(f"{output}/{op}"))
        node.outputs[0].name = self._name(output)
        return node.outputs[0]

    def _name(self, wanted: str) -> str:
        """Return `wanted`, or the first numbered variant that the graph does not use yet."""
        name, number = wanted, 0
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name

    def _read(self, name: str) -> Any:
        array = constant_array(self._values.get(name))
        if array is None:
            raise PlanError(f"the plan takes '{name}' for a constant, which it is not; plan again")
        return array


def _op(node: ir.Node) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type
