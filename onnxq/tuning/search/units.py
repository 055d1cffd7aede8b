"""Units: the smallest parts of a model that can go different ways, whatever the ways are."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxq.graph.constants import untransposed
from onnxq.graph.walk import nodes
from onnxq.ops import op_key
from onnxq.tuning.regions import Sets, units
from onnxq.types.plan import Action, Plan, Role

if TYPE_CHECKING:
    import onnx_ir as ir

# More are joined with their neighbours: each takes a few runs of the model.
MOST = 96


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """Nodes that go one way together.

    Attributes:
        nodes: in plan order, with their operators. by_way: for each way, those that it quantizes.
        merged: those that share a kernel with one of them in some form of the model, and themselves.
    """

    nodes: Mapping[str, str]
    by_way: tuple[tuple[str, ...], ...]
    merged: frozenset[str]

    @property
    def name(self) -> str:
        """Its first node's."""
        return next(iter(self.nodes))


def common_units(
    model: ir.Model, plans: Sequence[Plan], times: Sequence[Mapping[str, float]] = (), *, most: int = MOST
) -> tuple[Unit, ...]:
    """Return the units of a prepared model, in plan order: what a kernel joins, or a weight, goes together.

    Args:
        model: prepared. plans: one for each way. times: of each node in forms of the model; one that is missing was
            merged into another. most: how many units there may be; neighbours are joined until then.
    """
    named = dict(nodes(model))
    sets, readers, weighty = Sets(), dict[str, str](), set[str]()
    for plan in plans:
        for group in units(model, plan, ()):
            for node in group.nodes:
                sets.join(node, group.nodes[0])
        for decision in plan.decisions:
            for slot, key in decision.inputs.items():
                value = named[decision.node].inputs[slot]
                if plan.tensors[key].role is Role.WEIGHT and value is not None:
                    weighty.add(decision.node)
                    weight = untransposed(value)[0].name or ""
                    sets.join(decision.node, readers.setdefault(weight, decision.node))
    for spent in times:
        _join_merged(sets, named, weighty, spent)
    by_way = [frozenset(entry.node for entry in plan.decisions if entry.action is Action.QUANTIZE) for plan in plans]
    found: dict[str, list[str]] = {}
    for node in named:
        if any(node in each for each in by_way):
            found.setdefault(sets.root(node), []).append(node)
    members: dict[str, set[str]] = {}
    for node in sets.all():
        members.setdefault(sets.root(node), set()).add(node)
    return tuple(
        Unit(
            nodes={node: op_key(named[node]) for node in group},
            by_way=tuple(tuple(node for node in group if node in each) for each in by_way),
            merged=frozenset[str]().union(*(members[sets.root(node)] for node in group)),
        )
        for group in _joined(list(found.values()), most)
    )


def _join_merged(
    sets: Sets, named: Mapping[str, ir.Node], weighty: Collection[str], spent: Mapping[str, float]
) -> None:
    """Join nodes that a kernel ran together: it is told under the name of the first or of the last of them.

    A product that is missing is part of the kernel of what reads it; anything else that is missing, of the kernel of
    what it reads.
    """
    paths = {node: path for path, node in named.items()}
    for path, node in named.items():
        if path in spent:
            continue
        if path in weighty:
            near = [use.node for value in node.outputs for use in value.uses()]
        else:
            makers = (value.producer() for value in node.inputs if value is not None)
            near = [maker for maker in makers if maker is not None and len(maker.outputs[0].uses()) == 1][:1]
        if len(near) == 1 and near[0] in paths:
            sets.join(path, paths[near[0]])


def _joined(groups: list[list[str]], most: int) -> list[list[str]]:
    """Join neighbours, those of fewest nodes first, until there are no more groups than asked for."""
    while len(groups) > most:
        at = min(range(len(groups) - 1), key=lambda index: len(groups[index]) + len(groups[index + 1]))
        groups[at : at + 2] = [groups[at] + groups[at + 1]]
    return groups
