"""Which nodes run in integers where that is only a matter of time: a minimum cut.

Matrix products and convolutions with weights are worth quantizing; what stands between them (sums, pooling, reshapes)
is worth it only if the kernels save more than the QuantizeLinear and DequantizeLinear nodes around them cost. Each such
node goes to one of two sides, float or integer; sides have costs, and so has every tensor that passes from one side to
the other. The cheapest assignment is a minimum s-t cut (Picard and Ratliff, 1975), found exactly.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_RESOLUTION = 100_000  # capacities are whole numbers: the largest finite cost becomes this many units
_FOREVER = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class CutNode:
    """One node.

    Attributes:
        side: True for integer and False for float where that is settled, None where it is to be chosen.
        float_cost: nanoseconds in float.
        codes_cost: nanoseconds in integers.
    """

    side: bool | None
    float_cost: float = 0.0
    codes_cost: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Flow:
    """One tensor between nodes.

    Attributes:
        producer: node that computes it, None for graph inputs.
        consumers: nodes that could read it as codes.
        float_reader: whether anything else reads it, as float.
        quantize: nanoseconds to quantize all of it.
        dequantize: nanoseconds to dequantize all of it.
        free_float: whether the producer, when in integers, can return float as well at no cost.
    """

    producer: str | None
    consumers: tuple[str, ...]
    float_reader: bool
    quantize: float
    dequantize: float
    free_float: bool = False


def cost(items: Mapping[str, CutNode], flows: Iterable[Flow], codes: Collection[str]) -> float:
    """Return the nanoseconds of one assignment: `codes` names the items that run in integers."""
    total = sum(item.codes_cost if name in codes else item.float_cost for name, item in items.items())
    for flow in flows:
        from_codes = flow.producer in codes
        to_codes = any(name in codes for name in flow.consumers)
        to_float = flow.float_reader or any(name not in codes for name in flow.consumers)
        if to_codes and not from_codes:
            total += flow.quantize
        if from_codes and to_float and not flow.free_float:
            total += flow.dequantize
    return total


def choose(
    items: Mapping[str, CutNode], flows: Iterable[Flow], implies: Iterable[tuple[str, str]] = ()
) -> frozenset[str]:
    """Return the items to run in integers so that `cost` is smallest; float where both sides cost the same.

    Args:
        items: by name.
        flows: the tensors between them.
        implies: pairs (a, b): a in integers only if b is.
    """
    network = _Network()
    for name, item in items.items():
        node = network.node(name)
        if item.side is None:
            network.edge(node, _CODES, item.float_cost)
            network.edge(_FLOAT, node, item.codes_cost)
        elif item.side:
            network.edge(node, _CODES, None)
        else:
            network.edge(_FLOAT, node, None)
    for first, second in implies:
        network.edge(network.node(second), network.node(first), None)
    for flow in flows:
        producer = _FLOAT if flow.producer is None else network.node(flow.producer)
        consumers = [network.node(name) for name in flow.consumers]
        if consumers:
            wanted_as_codes = network.node(object())
            network.edge(producer, wanted_as_codes, flow.quantize)
            for consumer in consumers:
                network.edge(wanted_as_codes, consumer, None)
        if flow.producer is not None and not flow.free_float:
            wanted_as_float = network.node(object())
            network.edge(wanted_as_float, producer, flow.dequantize)
            for consumer in consumers:
                network.edge(consumer, wanted_as_float, None)
            if flow.float_reader:
                network.edge(_FLOAT, wanted_as_float, None)
    chosen = network.codes_side()
    return frozenset(name for name in items if network.node(name) in chosen)


_FLOAT, _CODES = 0, 1


class _Network:
    """A flow network whose source is the float side and whose sink is the side of codes."""

    def __init__(self) -> None:
        self._ids: dict[object, int] = {}
        self._edges: dict[tuple[int, int], float | None] = {}

    def node(self, key: object) -> int:
        """Return the number of a node, making it on first use."""
        return self._ids.setdefault(key, len(self._ids) + 2)

    def edge(self, tail: int, head: int, capacity: float | None) -> None:
        """Add capacity from tail to head; None for one that must never be cut."""
        known = self._edges.get((tail, head), 0.0)
        self._edges[tail, head] = None if capacity is None or known is None else known + capacity

    def codes_side(self) -> set[int]:
        """Return the nodes on the sink's side of the minimum cut with the smallest such side."""
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import breadth_first_order, maximum_flow

        if not self._edges:
            return set()
        size = len(self._ids) + 2
        largest = max((value for value in self._edges.values() if value is not None), default=0.0)
        unit = largest / _RESOLUTION if largest > 0 else 1.0
        tails, heads = (np.array(side, dtype=np.int32) for side in zip(*self._edges, strict=True))
        capacities = np.array([_whole(value, unit) for value in self._edges.values()], dtype=np.int32)
        network = csr_array((capacities, (tails, heads)), shape=(size, size), dtype=np.int32)
        flow = maximum_flow(network, _FLOAT, _CODES, method="dinic").flow
        residual = (network - flow).tocsr()
        residual.eliminate_zeros()
        # Nodes that can still send to the sink lie on its side whatever the tie-breaking.
        reached: npt.NDArray[np.int32] = breadth_first_order(residual.T.tocsr(), _CODES, return_predecessors=False)
        return set(reached.tolist())


def _whole(value: float | None, unit: float) -> int:
    """Return a capacity in whole units: at least 1 where there is any cost."""
    if value is None:
        return _FOREVER
    return 0 if value <= 0 else max(1, round(value / unit))
