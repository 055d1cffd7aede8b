"""Where codes flow: clamps to absorb, the choice between float and codes, and the time each is expected to cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxq.numerics.min_cut import CutNode, Flow, choose
from onnxq.ops import clamp_bounds
from onnxq.stages.plan.entries import Candidate, FloatNode
from onnxq.stages.plan.sizes import Sizes, multiply_accumulates
from onnxq.targets import Output
from onnxq.types.costs import Costs
from onnxq.types.statistics import Statistics

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """The outcome.

    Attributes:
        codes: names of the nodes that run quantized, absorbed clamps included; those whose format needs no calibration
            are not weighed here.
        absorbed: clamp -> name of the node whose quantized output does its work.
        times: for each node that was weighed, nanoseconds in float and quantized, conversions left out.
    """

    codes: frozenset[str]
    absorbed: Mapping[str, str]
    times: Mapping[str, tuple[float, float]]


def place(
    examined: Sequence[Candidate | FloatNode], statistics: Statistics, timing: Costs, *, everywhere: bool
) -> Placement:
    """Choose the nodes that run quantized.

    Args:
        examined: every node of the main graph and below, in order. statistics: for observed shapes.
        timing: of the target. everywhere: use every integer kernel there is, without weighing the time.
    """
    sizes = Sizes(statistics)
    candidates = {
        entry.node: entry for entry in examined if isinstance(entry, Candidate) and entry.request.format.static
    }
    absorbing = dict(absorbable(examined))
    items: dict[str, CutNode] = {}
    for entry in candidates.values():
        settled = True if everywhere or entry.weights else None
        float_cost, codes_cost = _times(entry, sizes, timing)
        items[entry.name] = CutNode(side=settled, float_cost=float_cost, codes_cost=codes_cost)
    implies: list[tuple[str, str]] = []
    for clamp, producer in absorbing.items():
        count = sizes.count(clamp.node.outputs[0])
        items[clamp.name] = CutNode(side=True if everywhere else None, float_cost=count * timing.dequantize)
        implies.append((clamp.name, producer.name))
        if producer.row.output is Output.REQUIRED:
            implies.append((producer.name, clamp.name))
    flows = _flows(candidates, {clamp.node: clamp for clamp in absorbing}, items, sizes, timing)
    codes = choose(items, flows, implies)
    return Placement(
        codes=codes,
        absorbed={clamp.name: producer.name for clamp, producer in absorbing.items() if clamp.name in codes},
        times={name: (item.float_cost, item.codes_cost) for name, item in items.items()},
    )


def _weighed(examined: Sequence[Candidate | FloatNode]) -> dict[ir.Node, Candidate]:
    """Return the candidates whose activations have parameters from calibration, by node."""
    return {entry.node: entry for entry in examined if isinstance(entry, Candidate) and entry.request.format.static}


def absorbable(examined: Sequence[Candidate | FloatNode]) -> list[tuple[FloatNode, Candidate]]:
    """Pairs of a clamp and the candidate before it whose quantized output could do the clamp's work."""
    candidates = _weighed(examined)
    pairs = []
    for entry in examined:
        if not (isinstance(entry, FloatNode) and entry.clamp):
            continue
        value = entry.node.inputs[0]
        producer = None if value is None else candidates.get(value.producer())  # type: ignore[arg-type]
        if producer is None or value is None or value.is_graph_output() or len(value.uses()) != 1:
            continue
        if producer.node.graph is not entry.node.graph:
            continue
        # A symmetric zero point cannot stand at the clamp's bound, and an operator that only moves codes cannot clamp.
        if producer.request.activations.symmetric or producer.fact.rearranges or len(producer.node.outputs) != 1:
            continue
        # Codes always stand for 0 too, which a clamp without 0 between its bounds would never return.
        bounds = clamp_bounds(entry.node)
        if bounds is not None and bounds.low <= 0 <= bounds.high:
            pairs.append((entry, producer))
    return pairs


def _flows(
    candidates: Mapping[ir.Node, Candidate],
    clamps: Mapping[ir.Node, FloatNode],
    items: Mapping[str, CutNode],
    sizes: Sizes,
    timing: Costs,
) -> list[Flow]:
    values: dict[ir.Value, None] = {}
    for entry in candidates.values():
        read = (entry.node.inputs[slot] for slot in entry.activations)
        written = (entry.node.outputs[slot] for slot in entry.fact.output_slots(entry.node))
        values.update((value, None) for value in (*read, *written) if value is not None)
    for node in clamps:
        values[node.outputs[0]] = None
    flows = []
    for value in values:
        producer = value.producer()
        made = candidates.get(producer) or clamps.get(producer) if producer is not None else None
        if any(use.node in clamps for use in value.uses()):
            continue  # between a node and the clamp it absorbs nothing is converted
        consumers: dict[object, dict[str, None]] = {value.graph: {}}
        float_reader = value.is_graph_output()
        for use in value.uses():
            reader = candidates.get(use.node)
            if reader is not None and use.idx in reader.activations:
                consumers.setdefault(use.node.graph, {})[reader.name] = None
                float_reader = float_reader or use.node.graph is not value.graph
            else:
                float_reader = True
        count = sizes.count(value)
        for graph, names in consumers.items():  # codes stay in their scope: into a body a value goes as float
            home = graph is value.graph
            flows.append(
                Flow(
                    producer=made.name if home and made is not None and made.name in items else None,
                    consumers=tuple(names),
                    float_reader=float_reader,
                    quantize=count * timing.quantize,
                    dequantize=count * timing.dequantize,
                    free_float=isinstance(made, Candidate) and made.row.output is Output.OPTIONAL,
                )
            )
    return flows


def _times(entry: Candidate, sizes: Sizes, timing: Costs) -> tuple[float, float]:
    """Nanoseconds of a candidate in float and quantized."""
    count = sum(sizes.count(entry.node.outputs[slot]) for slot in entry.fact.output_slots(entry.node))
    if entry.fact.macs is None:
        return count * entry.row.float_ns, count * entry.row.quantized_ns
    macs = multiply_accumulates(entry.node, sizes)
    return macs * timing.float_mac, macs * timing.quantized_mac + count * timing.quantized_output
