"""Bringing values out of the bodies of If, Loop and Scan, so that they can be read like any other.

    Loop   a sequence of all values so far is carried from iteration to iteration
    If     the branch that computes the value appends it, the other hands the sequence on as it is
    Scan   the values of all steps come out stacked along a new first axis

So every value comes out as often as it was computed, each time with the shape it had; of a branch that never ran,
nothing comes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from onnxq.graph.walk import bodies, subgraphs

if TYPE_CHECKING:
    import onnx_ir as ir

_SEQUENCES = 13
"""The opset from which on If and Loop take sequences."""
_IR_VERSION = 7
"""The one that came with opset 14."""


def why_hidden(model: ir.Model) -> dict[ir.Graph, str]:
    """Return, for each body whose values cannot be brought out, why not."""
    owners = bodies(model)
    old = model.opset_imports.get("", _SEQUENCES) < _SEQUENCES
    hidden: dict[ir.Graph, str] = {}
    for graph, owner in owners.items():
        outer = None if owner is None else owner.graph
        if owner is None or outer is None:
            continue
        above = owners.get(outer)
        if old:
            hidden[graph] = f"before opset {_SEQUENCES}, values inside {owner.op_type} cannot be observed"
        elif outer in hidden:
            hidden[graph] = hidden[outer]
        elif owner.domain or owner.op_type not in ("If", "Loop", "Scan"):
            hidden[graph] = f"values inside {owner.op_type} cannot be observed"
        elif above is not None and above.op_type == "Scan":
            hidden[graph] = f"values of {owner.op_type} inside Scan cannot be observed"
    return hidden


def is_repeated(model: ir.Model) -> set[ir.Graph]:
    """Return the bodies that may run several times in one run of the model."""
    repeated: set[ir.Graph] = set()
    for graph, owner in bodies(model).items():
        if owner is not None and (owner.op_type != "If" or owner.graph in repeated):
            repeated.add(graph)
    return repeated


def hoist(model: ir.Model, wanted: Mapping[str, ir.Value]) -> None:
    """Make sequences of values that are computed inside bodies, in place.

    Args:
        model: with unique names.
        wanted: names for the sequences, and the values: of bodies that are not hidden. Values without a type count as
            float32.
    """
    import onnx_ir as ir

    # Identity takes sequences from opset 14 on; nothing that 13 has means anything else there.
    if model.opset_imports.get("") == _SEQUENCES:
        model.opset_imports[""] = _SEQUENCES + 1
        model.ir_version = max(model.ir_version, _IR_VERSION)
    writer = _Hoist(model, wanted)
    states = {}
    for name, value in wanted.items():
        dtype = value.dtype or ir.DataType.FLOAT
        node = ir.node("SequenceEmpty", [], {"dtype": int(dtype)})
        states[name] = writer.sequence(node.outputs[0], dtype)
        if len(model.graph):
            model.graph.insert_before(model.graph[0], [node])
    for name, state in writer.carry(model.graph, states).items():
        state.name = name


class _Hoist:
    """Threads sequences through a model."""

    def __init__(self, model: ir.Model, wanted: Mapping[str, ir.Value]) -> None:
        self._wanted = wanted
        self._count = 0
        owners = bodies(model)
        self._inside: dict[ir.Graph, list[str]] = {graph: [] for graph in owners}
        self._here: dict[ir.Value, list[str]] = {}
        for name, value in wanted.items():
            self._here.setdefault(value, []).append(name)
            graph = value.graph
            while graph is not None:
                self._inside[graph].append(name)
                owner = owners[graph]
                graph = None if owner is None else owner.graph

    def sequence(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Name a value and declare it a sequence."""
        import onnx_ir as ir

        return self._declared(value, ir.SequenceType(ir.TensorType(dtype)))

    def carry(self, graph: ir.Graph, states: Mapping[str, ir.Value]) -> dict[str, ir.Value]:
        """Append what `graph` computes to the sequences; return them as they are at its end."""
        now = dict(states)
        for value in graph.inputs:
            if len(graph):
                for name in self._here.get(value, ()):
                    now[name] = self._append(now[name], value, before=graph[0])
        for node in list(graph):
            last = node
            below = {name: now[name] for _, inner in subgraphs(node) for name in self._inside[inner]}
            if below and node.op_type == "If":
                now |= self._through_if(node, below)
            elif below and node.op_type == "Loop":
                last = self._through_loop(node, below, now)
            elif below:
                now |= self._through_scan(node, below)
            for value in last.outputs:
                for name in self._here.get(value, ()):
                    now[name] = self._append(now[name], value, behind=last)
        return now

    def _through_if(self, node: ir.Node, states: Mapping[str, ir.Value]) -> dict[str, ir.Value]:
        import onnx_ir as ir

        for _, branch in subgraphs(node):
            ends = self.carry(branch, states)
            for name, end in ends.items():
                own = end
                if end is states[name]:  # a branch returns values of its own only
                    same = ir.node("Identity", [end])
                    branch.append(same)
                    own = self._declared(same.outputs[0], end.type)
                branch.outputs.append(own)
        first = len(node.outputs)
        node.resize_outputs(first + len(states))
        return {
            name: self._declared(value, states[name].type)
            for name, value in zip(states, node.outputs[first:], strict=True)
        }

    def _through_loop(self, node: ir.Node, states: Mapping[str, ir.Value], now: dict[str, ir.Value]) -> ir.Node:
        """Put a Loop that carries the sequences in the place of one; note in `now` what they end as."""
        import onnx_ir as ir

        ((_, body),) = subgraphs(node)
        own = {name: self._declared(ir.Value(), state.type) for name, state in states.items()}
        carried = len(node.inputs) - 2
        body.inputs.extend(own.values())
        body.outputs[1 + carried : 1 + carried] = self.carry(body, own).values()
        attributes = list(node.attributes.values())
        node.attributes.clear()
        count = len(node.outputs) + len(states)
        new = ir.Node(node.domain, node.op_type, [*node.inputs, *states.values()], attributes, num_outputs=count)
        new.name = node.name
        assert node.graph is not None
        node.graph.insert_after(node, [new])
        results = [*new.outputs[:carried], *new.outputs[carried + len(states) :]]
        for old, result in zip(node.outputs, results, strict=True):
            name, old.name = old.name, None
            result.name, result.type, result.shape = name, old.type, old.shape
            self._here[result] = self._here.pop(old, [])
            ir.convenience.replace_all_uses_with(old, result, replace_graph_outputs=True)
        node.graph.remove(node, safe=True)
        for name, value in zip(states, new.outputs[carried : carried + len(states)], strict=True):
            now[name] = self._declared(value, states[name].type)
        return new

    def _through_scan(self, node: ir.Node, states: Mapping[str, ir.Value]) -> dict[str, ir.Value]:
        import onnx_ir as ir

        ((_, body),) = subgraphs(node)
        first = len(node.outputs)
        for name in states:
            value = self._wanted[name]
            same = ir.node("Identity", [value])
            body.append(same)
            body.outputs.append(self._declared(same.outputs[0], ir.TensorType(value.dtype or ir.DataType.FLOAT)))
        node.resize_outputs(first + len(states))
        for attribute in ("scan_output_axes", "scan_output_directions"):
            if attribute in node.attributes:
                known = node.attributes.get_ints(attribute) or ()
                node.attributes.add(ir.AttrInt64s(attribute, [*known, *[0] * len(states)]))
        sequences = {}
        for name, value in zip(states, node.outputs[first:], strict=True):
            self._declared(value, ir.TensorType(self._wanted[name].dtype or ir.DataType.FLOAT))
            sequences[name] = self._append(states[name], value, behind=node)
        return sequences

    def _append(
        self, state: ir.Value, value: ir.Value, *, behind: ir.Node | None = None, before: ir.Node | None = None
    ) -> ir.Value:
        import onnx_ir as ir

        node = ir.node("SequenceInsert", [state, value])
        graph = value.graph
        assert isinstance(graph, ir.Graph)
        if behind is not None:
            graph.insert_after(behind, [node])
        elif before is not None:
            graph.insert_before(before, [node])
        return self._declared(node.outputs[0], state.type)

    def _declared(self, value: ir.Value, kind: ir.TypeProtocol | None) -> ir.Value:
        self._count += 1
        value.name, value.type = f"//hoisted/{self._count}", kind
        return value
