"""What calibration says against quantizing a node: never ran, always 0, NaN, infinities, masks, too wide a range ..."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from onnxq.errors import first_few
from onnxq.graph.names import name_of
from onnxq.graph.walk import bodies, subgraphs
from onnxq.ops import clamp_bounds
from onnxq.stages.plan.entries import Candidate, FloatNode
from onnxq.stages.plan.wide_tensors import JOINS, WIDE, WideTensors
from onnxq.targets import Output
from onnxq.types.plan import Reason
from onnxq.types.statistics import Statistics, TensorStatistics

if TYPE_CHECKING:
    import onnx_ir as ir

_UNSEEN = "not-observed"
_DEAD = "always-zero"
_REMEDY = "what else it can be is not known; calibrate with samples in which it is not"
_SHOWN = 3
_FEWEST_LEVELS = 16  # of 256: a joined tensor that would keep fewer steps than 4 bits is better left in float


def without_unfit(examined: Iterable[Candidate | FloatNode], statistics: Statistics) -> Iterator[Candidate | FloatNode]:
    """Yield the entries, with candidates whose tensors cannot be quantized well made float nodes.

    Args:
        examined: the nodes, in graph order. statistics: of their tensors.
    """
    wide = WideTensors()
    for entry in examined:
        reason = _against(entry, statistics) or wide.against(entry)
        wide.follow(entry, reason)
        if reason is None:
            yield entry
        elif isinstance(entry, Candidate):
            yield FloatNode(name=entry.name, node=entry.node, op=entry.op, reason=reason, rule=entry.request.rule)
        else:  # a clamp whose output cannot be quantized absorbs nothing
            yield FloatNode(name=entry.name, node=entry.node, op=entry.op, reason=reason, rule=entry.rule)


def _against(entry: Candidate | FloatNode, statistics: Statistics) -> Reason | None:
    """Return the reason against a candidate or clamp, None if absent."""
    if isinstance(entry, FloatNode):
        return _unfit(entry.node.outputs[0], statistics) if entry.clamp else None
    if not entry.request.format.static:
        return None
    read = [entry.node.inputs[slot] for slot in entry.activations]
    written = [entry.node.outputs[slot] for slot in entry.fact.output_slots(entry.node)]
    for value in read + (written if entry.row.output is Output.REQUIRED else []):
        reason = _unfit(value, statistics)
        if reason is not None:
            return reason
    for value in written if entry.row.output is Output.REQUIRED else []:
        reason = _dead_behind(value, statistics)
        if reason is not None:
            return reason
    for value in written if entry.row.loses is not None else []:
        seen = statistics.tensors[name_of(value)]
        text = None if only_surveyed(seen) or entry.row.loses is None else entry.row.loses(entry.node, seen)
        if text is not None:
            return Reason(code="few-codes", text=text)
    return _lost(read, written, statistics) if entry.op in JOINS else None


def _unfit(value: ir.Value | None, statistics: Statistics) -> Reason | None:
    name = name_of(value)
    observed = statistics.tensors.get(name)
    if observed is not None and only_surveyed(observed):
        return None
    if observed is None or observed.count + observed.nan + observed.pos_inf + observed.neg_inf == 0:
        text = f"tensor '{name}' never held a value during calibration; calibrate with samples that give it some"
        return Reason(code=_UNSEEN, text=text)
    if observed.nan:
        return Reason(code="nan", text=f"tensor '{name}' held NaN during calibration ({observed.nan} values)")
    if observed.pos_inf or observed.neg_inf:
        return _infinite(value, name, observed)
    if observed.sentinels:
        lowest = observed.sentinels[0].minimum
        text = f"tensor '{name}' held {lowest:.3g}, far from all else: a mask has no place in a range"
        return Reason(code="mask", text=text)
    if observed.minimum == 0 == observed.maximum:
        return Reason(code=_DEAD, text=f"tensor '{name}' was 0 throughout calibration: {_REMEDY}")
    return None


def _infinite(value: ir.Value | None, name: str, observed: TensorStatistics) -> Reason:
    """Return the reason against a tensor with infinities: minus infinity is what masks hold, others are faults."""
    given = value is not None and value.is_graph_input()
    what, remedy = (f"input '{name}'", "clean the data") if given else (f"tensor '{name}'", "find out where from")
    count = observed.pos_inf + observed.neg_inf
    masked = sum(sentinel.count for sentinel in observed.sentinels)
    values = "1 infinite value" if count == 1 else f"{count} infinite values"
    text = f"{what} held {values} of {count + observed.count + masked} during calibration"
    if observed.pos_inf:
        return Reason(code="infinite", text=f"{text}: they have no place in a range; {remedy}")
    return Reason(code="mask", text=f"{text}: an attention mask has no place in a range; if it is none, {remedy}")


def _dead_behind(value: ir.Value, statistics: Statistics) -> Reason | None:
    """Return the reason against quantizing what a clamp reads that gave nothing but its lower bound."""
    for use in value.uses():
        bounds = clamp_bounds(use.node)
        for name in (name_of(value), name_of(use.node.outputs[0])) if bounds is not None else ():
            observed = statistics.tensors.get(name)
            if observed is not None and observed.count and bounds is not None and observed.maximum <= bounds.low:
                clamped = name_of(use.node.outputs[0])
                text = f"tensor '{clamped}' was {bounds.low + 0.0:g} throughout calibration: {_REMEDY}"
                return Reason(code=_DEAD, text=text)
    return None


def unknown_ranges(model: ir.Model, examined: Sequence[Candidate | FloatNode]) -> list[str]:
    """Return warnings about nodes that stay in float since calibration did not show what their values can be."""
    kept = [entry for entry in examined if isinstance(entry, FloatNode) and entry.reason.code in (_UNSEEN, _DEAD)]
    dead = Counter(entry.reason.text for entry in kept if entry.reason.code == _DEAD)
    warnings = [f"{text}; {_stay(number)} in float" for text, number in dead.most_common(_SHOWN)]
    if len(dead) > _SHOWN:
        warnings.append(f"{len(dead) - _SHOWN} more tensors never changed during calibration; the plan names them")
    unseen = [entry.name for entry in kept if entry.reason.code == _UNSEEN and entry.node.graph is model.graph]
    if unseen:
        named = first_few(unseen, _SHOWN)
        text = f"{_stay(len(unseen))} in float ({named}), since their tensors never held a value during calibration"
        warnings.append(f"{text}; calibrate with samples that give them some")
    return [*warnings, *_never_ran(model, examined)]


def _stay(number: int) -> str:
    return f"{number} node stays" if number == 1 else f"{number} nodes stay"


def _never_ran(model: ir.Model, examined: Sequence[Candidate | FloatNode]) -> list[str]:
    """Return a warning for each branch that calibration never took, the branches inside it counted with it."""
    owners = bodies(model)
    titles = {graph: f"{part} of '{entry.name}'" for entry in examined for part, graph in subgraphs(entry.node)}
    kept = Counter(
        entry.node.graph for entry in examined if isinstance(entry, FloatNode) and entry.reason.code == _UNSEEN
    )
    kept.pop(model.graph, None)
    counts = Counter[str]()
    for graph, number in kept.items():
        top, owner = graph, owners[graph]  # type: ignore[index]
        while owner is not None and owner.graph in kept:
            top, owner = owner.graph, owners[owner.graph]  # type: ignore[index]
        counts[titles[top]] += number  # type: ignore[index]
    return [
        f"{title} never ran during calibration: {_stay(number)} in float; calibrate with samples that take it"
        for title, number in counts.items()
    ]


def compared(entry: Candidate) -> list[str]:
    """Return the names of the tensors whose ranges are held against each other before the node may run quantized."""
    if entry.op not in JOINS:
        return []
    read = (entry.node.inputs[slot] for slot in entry.activations)
    written = (entry.node.outputs[slot] for slot in entry.fact.output_slots(entry.node))
    return [value.name for value in (*read, *written) if value is not None and value.name is not None]


def only_surveyed(observed: TensorStatistics) -> bool:
    """Whether no more than its extents is known of a tensor, which then speaks neither for nor against anything."""
    return not observed.samples and not observed.count and observed.shapes is not None


def _lost(read: list[ir.Value | None], written: list[ir.Value], statistics: Statistics) -> Reason | None:
    """Reason against joining tensors of very different ranges under one scale."""
    whole = statistics.tensors[written[0].name or ""]
    if only_surveyed(whole):
        return None
    step = (max(whole.maximum, 0.0) - min(whole.minimum, 0.0)) / 255
    for value in read:
        name = name_of(value)
        part = statistics.tensors[name]
        extent = max(part.maximum, 0.0) - min(part.minimum, 0.0)
        if 0 < extent < _FEWEST_LEVELS * step:
            text = (
                f"'{name}' spans {extent:.3g}, the joined tensor {255 * step:.3g}: under one scale it would keep "
                f"{extent / step:.1f} of 255 steps"
            )
            return Reason(code=WIDE, text=text)
    return None
