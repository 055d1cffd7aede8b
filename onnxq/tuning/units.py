"""Groups of nodes that are quantized, or kept in float, together.

A region is a connected group of quantized nodes with the Q/DQ around it. A unit is the smallest part that can be judged
alone: nodes that some form of the model runs as one kernel, or that read one weight.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from onnxq.graph.constants import untransposed
from onnxq.graph.walk import nodes
from onnxq.ops import facts, op_key
from onnxq.types.plan import Action, Decision, Plan, Role

if TYPE_CHECKING:
    import onnx_ir as ir

_ABSORBED = "absorbed"
_BY_RESULT = frozenset({"Conv", "ConvTranspose"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """Nodes that are judged together.

    Attributes:
        nodes: those that a plan quantizes, in plan order, with their operators.
        by_plan: for each plan, those that it quantizes.
        merged: those that share a kernel with one of the nodes in some form of the model, and the nodes themselves; of
            a region also those that make what it reads.
        kind: the same operators on weights of the same shapes. Units of one kind are expected to take equally long:
            layers that repeat are timed together, so that chance averages out.
    """

    nodes: Mapping[str, str]
    by_plan: tuple[tuple[str, ...], ...]
    merged: frozenset[str]
    kind: Hashable

    @property
    def name(self) -> str:
        """Its first node's."""
        return next(iter(self.nodes))


Fused: TypeAlias = Callable[["ir.Node", bool], Sequence["ir.Node"]]
"""Returns what a node without a time of its own may have been fused with, given whether it reads a weight.

Where that is one node, the two run as one kernel."""


def with_reader(node: ir.Node, has_weight: bool) -> Sequence[ir.Node]:
    """A kernel is named after the last of its nodes."""
    return [use.node for value in node.outputs for use in value.uses()]


def with_product(node: ir.Node, has_weight: bool) -> Sequence[ir.Node]:
    """A product is fused with what reads it; any other node with what it reads, if nothing else reads that."""
    if has_weight:
        return with_reader(node, has_weight)
    makers = (value.producer() for value in node.inputs if value is not None)
    return [maker for maker in makers if maker is not None and len(maker.outputs[0].uses()) == 1][:1]


def find_units(
    model: ir.Model,
    plans: Sequence[Plan],
    times: Sequence[Mapping[str, float]] = (),
    *,
    fused: Fused = with_reader,
    most: int | None = None,
) -> tuple[Unit, ...]:
    """Return the smallest groups of nodes that can be judged alone, in plan order.

    Args:
        model: prepared.
        plans: of it; what one of them quantizes is part of a unit.
        times: of each node in forms of the model; a node that is missing was merged into another one.
        fused: returns into which.
        most: how many units there may be; neighbours are joined until then.
    """
    grouping = _Grouping(model)
    weights: dict[str, str] = {}
    for plan in plans:
        grouping.join_absorbed(plan)
        grouping.join_readers(plan, weights)
    absorbed = {entry.node for plan in plans for entry in plan.decisions if entry.reason.code == _ABSORBED}
    has_weight = set(_weight_readers(plans))
    for measured in times:
        for path, node in grouping.named.items():
            if path not in measured and path not in absorbed:
                near = fused(node, path in has_weight)
                if len(near) == 1 and (other := grouping.paths.get(near[0])) is not None:
                    grouping.sets.join(path, other)
    return grouping.units(plans, most)


def find_regions(model: ir.Model, plan: Plan) -> tuple[Unit, ...]:
    """Return the connected groups of quantized nodes, in plan order.

    Args:
        model: prepared.
        plan: of it.
    """
    grouping = _Grouping(model)
    holders: dict[str, str] = {}
    makers = {value.name: path for path, node in grouping.named.items() for value in node.outputs}
    read: dict[str, set[str]] = {}
    for decision in _quantized(plan):
        for key in (*decision.inputs.values(), *decision.outputs.values()):
            if plan.tensors[key].role is Role.ACTIVATION:
                grouping.sets.join(decision.node, holders.setdefault(key, decision.node))
        keys = [key for key in decision.inputs.values() if plan.tensors[key].role is Role.ACTIVATION]
        read[decision.node] = {makers[plan.tensors[key].tensor] for key in keys if plan.tensors[key].tensor in makers}
    grouping.join_absorbed(plan)
    grouping.join_readers(plan, {})
    # The time of quantizing what a region reads counts for the float node that makes it.
    return tuple(
        replace(region, merged=region.merged.union(*(read[node] for node in region.nodes)))
        for region in grouping.units([plan], None)
    )


def _quantized(plan: Plan) -> Iterator[Decision]:
    return (decision for decision in plan.decisions if decision.action is Action.QUANTIZE)


def _weight_readers(plans: Sequence[Plan]) -> Iterator[str]:
    for plan in plans:
        for decision in plan.decisions:
            if any(plan.tensors[key].role is Role.WEIGHT for key in decision.inputs.values()):
                yield decision.node


class _Grouping:
    """The nodes of a model, and sets of those that go together.

    Attributes:
        named: the nodes by path name, in graph order.
        paths: their path names.
        sets: of path names.
    """

    def __init__(self, model: ir.Model) -> None:
        self.named = dict(nodes(model))
        self.paths: dict[ir.Node, str] = {node: path for path, node in self.named.items()}
        self.sets = DisjointSets()

    def join_absorbed(self, plan: Plan) -> None:
        """Put clamps with the node whose quantized output does their work."""
        for decision in plan.decisions:
            if decision.reason.code == _ABSORBED:
                source = self.named[decision.node].inputs[0]
                producer = None if source is None else source.producer()
                if producer is not None:
                    self.sets.join(decision.node, self.paths[producer])

    def join_readers(self, plan: Plan, weights: dict[str, str]) -> None:
        """Put nodes together that read one weight, transposed or not: one in float would keep the float weight, too.

        Args:
            plan: says which nodes read which weights.
            weights: a reader of each weight, by the weight's name; those of the plan are added.
        """
        for decision in plan.decisions:
            for slot, key in decision.inputs.items():
                value = self.named[decision.node].inputs[slot]
                if plan.tensors[key].role is Role.WEIGHT and value is not None:
                    weight = untransposed(value)[0].name or ""
                    self.sets.join(decision.node, weights.setdefault(weight, decision.node))

    def units(self, plans: Sequence[Plan], most: int | None) -> tuple[Unit, ...]:
        """Return the sets that hold a quantized node, no more than `most` of them."""
        by_plan = [frozenset(decision.node for decision in _quantized(plan)) for plan in plans]
        quantized = frozenset[str]().union(*by_plan)
        groups: dict[str, list[str]] = {}
        for node in self.named:
            if node in quantized:
                groups.setdefault(self.sets.root(node), []).append(node)
        members: dict[str, set[str]] = {}
        for node in self.sets.all():
            members.setdefault(self.sets.root(node), set()).add(node)
        return tuple(
            Unit(
                nodes={node: op_key(self.named[node]) for node in group},
                by_plan=tuple(tuple(node for node in group if node in each) for each in by_plan),
                merged=frozenset[str]().union(*(members[self.sets.root(node)] for node in group)),
                kind=tuple(sorted(_kind(self.named[node]) for node in group)),
            )
            for group in _joined(list(groups.values()), most)
        )


def _kind(node: ir.Node) -> str:
    """Return operator and shapes of a node, in words."""
    key = op_key(node)
    fact = facts.get(key) if key in facts else None
    value = None if fact is None or fact.weight is None or fact.weight >= len(node.inputs) else node.inputs[fact.weight]
    weight = "" if value is None or not value.is_initializer() else str(value.shape)
    result = "" if weight and key not in _BY_RESULT else str(node.outputs[0].shape)
    return f"{key} {weight} {result}"


def _joined(groups: list[list[str]], most: int | None) -> list[list[str]]:
    """Join neighbours, those of fewest nodes first, until there are no more groups than wanted."""
    while most is not None and len(groups) > most:
        at = min(range(len(groups) - 1), key=lambda index: len(groups[index]) + len(groups[index + 1]))
        groups[at : at + 2] = [groups[at] + groups[at + 1]]
    return groups


class DisjointSets:
    """Disjoint sets of names (Tarjan 1975), each known by one of its members."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def root(self, name: str) -> str:
        """Return the member that a name's set is known by; a new name is a set of its own."""
        self._above.setdefault(name, name)
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
