"""Groups of quantized nodes that go back to float together, and what tells equal ones.

A region is a connected group of quantized nodes with the Q/DQ around it. A unit is the smallest part that can be judged
alone: nodes that either model runs as one kernel, or that read one weight. Groups of one kind (the same operators on
weights of the same shapes) are decided together: layers that repeat are timed together, so that chance averages out.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnxq.graph.constants import untransposed
from onnxq.graph.walk import nodes
from onnxq.ops import facts, op_key
from onnxq.types.plan import Action, Plan, Role

if TYPE_CHECKING:
    import onnx_ir as ir

_ABSORBED = "absorbed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Nodes that are judged together.

    Attributes:
        nodes: those that are quantized, in plan order.
        merged: with the float nodes that share a kernel with them, and of regions those that make what they read.
        kind: equal for groups that are expected to take equally long.
    """

    nodes: tuple[str, ...]
    merged: frozenset[str]
    kind: Hashable


def regions(model: ir.Model, plan: Plan) -> list[Group]:
    """Return the connected groups of quantized nodes, in plan order.

    Args:
        model: prepared. plan: made for it.
    """
    sets = Sets()
    holders: dict[str, str] = {}
    makers = {value.name: path for path, node in nodes(model) for value in node.outputs}
    read: dict[str, set[str]] = {}
    for decision in plan.decisions:
        if decision.action is not Action.QUANTIZE:
            continue
        sets.add(decision.node)
        for key in (*decision.inputs.values(), *decision.outputs.values()):
            if plan.tensors[key].role is Role.ACTIVATION:
                sets.join(decision.node, holders.setdefault(key, decision.node))
        keys = [key for key in decision.inputs.values() if plan.tensors[key].role is Role.ACTIVATION]
        read[decision.node] = {makers[plan.tensors[key].tensor] for key in keys if plan.tensors[key].tensor in makers}
    _join_absorbed(sets, model, plan)
    _join_tables(sets, model, plan)
    # The time of quantizing what a region reads counts for the float node that makes it.
    return [
        replace(group, merged=group.merged.union(*(read[node] for node in group.nodes)))
        for group in _groups(sets, model, plan)
    ]


def units(model: ir.Model, plan: Plan, times: Iterable[Mapping[str, float]]) -> list[Group]:
    """Return the smallest groups of quantized nodes that can be judged alone, in plan order.

    Args:
        model: prepared. plan: made for it.
        times: time of each node in the float model and in others; a node that is missing was merged into another one.
    """
    sets = Sets()
    named = dict(nodes(model))
    paths = {node: path for path, node in named.items()}
    absorbed = {entry.node for entry in plan.decisions if entry.reason.code == _ABSORBED}
    for spent in times:
        for path, node in named.items():
            users = [use.node for value in node.outputs for use in value.uses()]
            if path not in spent and path not in absorbed and len(users) == 1 and users[0] in paths:
                sets.join(path, paths[users[0]])
    _join_absorbed(sets, model, plan)
    _join_tables(sets, model, plan)
    return _groups(sets, model, plan)


def _join_absorbed(sets: Sets, model: ir.Model, plan: Plan) -> None:
    """Put clamps with the node whose quantized output does their work."""
    named = dict(nodes(model))
    paths = {node: path for path, node in named.items()}
    for decision in plan.decisions:
        if decision.reason.code == _ABSORBED:
            source = named[decision.node].inputs[0]
            producer = None if source is None else source.producer()
            if producer is not None:
                sets.join(decision.node, paths[producer])


def _join_tables(sets: Sets, model: ir.Model, plan: Plan) -> None:
    """Put nodes together that read one weight, transposed or not: one in float would keep the float weight, too."""
    named = dict(nodes(model))
    holders: dict[ir.Value, str] = {}
    for decision in plan.decisions:
        if decision.action is not Action.QUANTIZE:
            continue
        for slot, key in decision.inputs.items():
            value = named[decision.node].inputs[slot]
            if plan.tensors[key].role is Role.WEIGHT and value is not None:
                root, _ = untransposed(value)
                sets.join(decision.node, holders.setdefault(root, decision.node))


def _groups(sets: Sets, model: ir.Model, plan: Plan) -> list[Group]:
    named = dict(nodes(model))
    found: dict[str, list[str]] = {}
    for decision in plan.decisions:
        if decision.action is Action.QUANTIZE:
            found.setdefault(sets.root(decision.node), []).append(decision.node)
    members: dict[str, set[str]] = {}
    for node in sets.all():
        members.setdefault(sets.root(node), set()).add(node)
    return [
        Group(
            nodes=tuple(quantized),
            merged=frozenset({*quantized, *members.get(root, ())}),
            kind=tuple(sorted(_kind(named[node]) for node in quantized)),
        )
        for root, quantized in found.items()
    ]


def _kind(node: ir.Node) -> str:
    """Return operator and shapes of a node, in words."""
    key = op_key(node)
    fact = facts.get(key) if key in facts else None
    value = None if fact is None or fact.weight is None or fact.weight >= len(node.inputs) else node.inputs[fact.weight]
    weight = "" if value is None or not value.is_initializer() else str(value.shape)
    result = "" if weight and key not in _BY_RESULT else str(node.outputs[0].shape)
    return f"{key} {weight} {result}"


_BY_RESULT: Collection[str] = frozenset({"Conv", "ConvTranspose"})


class Sets:
    """Disjoint sets of names (Tarjan 1975), each known by one of its members."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def add(self, name: str) -> None:
        """Put a name in a set of its own, unless it is in one."""
        self._above.setdefault(name, name)

    def root(self, name: str) -> str:
        """Return the member that a name's set is known by."""
        self.add(name)
        while self._above[name] != name:
            self._above[name] = self._above[self._above[name]]
            name = self._above[name]
        return name

    def join(self, one: str, other: str) -> None:
        """Make one set of two names' sets."""
        self._above[self.root(one)] = self.root(other)

    def all(self) -> tuple[str, ...]:
        """Return every name."""
        return tuple(self._above)
