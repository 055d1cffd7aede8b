"""Where a model, as served, departs from what its graph says, tensor by tensor.

Only values that the optimized graph still holds are read: reading one that was fused away would undo the fusion.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxq.evaluate.comparison import Feeds, TensorPair, compare_tensors
from onnxq.evaluate.served.as_written import as_written
from onnxq.graph.walk import nodes as walk
from onnxq.graph.walk import subgraphs
from onnxq.numerics.metrics import ErrorSums
from onnxq.runtime.readback import optimized_graph

if TYPE_CHECKING:
    import onnx_ir as ir

# What is less than a hundredth of the worst may be what that one left behind, or what a later one made larger.
_SHARE = 0.01
_FLAT = 1e-12
_ROUNDING = 1e-7  # of float32 sums in another order


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Departure:
    """A tensor that is further from what the graph says than those it is computed from.

    Attributes:
        tensor: its name.
        noise: what is added there, in shares of its variance.
        nodes: path names of the nodes that compute it from other such tensors, those of bodies included.
        ran: those of the optimized graph.
    """

    tensor: str
    noise: float
    nodes: tuple[str, ...]
    ran: tuple[ir.Node, ...]


def departures(
    model: ir.Model, feeds: Iterable[Feeds], *, threads: int, exact_inputs: bool = True
) -> tuple[Departure, ...]:
    """Return where a quantized model departs from its graph, worst first.

    Args:
        model: of whatever tool.
        feeds: the few batches to run, read several times.
        threads: intra-op threads it is served with.
        exact_inputs: whether what MatMulNBits rounds counts, see `as_written`.

    Raises:
        ModelError: the runtime cannot load or run the model.
    """
    optimized = optimized_graph(model, threads=threads, layout=False)
    written = as_written(model, exact_inputs=exact_inputs)
    values, ran, plain = (_values(each) for each in (model, optimized, written))
    outputs = [value.name for value in model.graph.outputs if value.name in values]
    inner = [name for name, value in values.items() if name not in outputs and not _is_dequantized(value)]
    # Reading inner values can undo a fusion all the same; then all that is known is which outputs depart.
    for names in ([*inner, *outputs], outputs) if inner else (outputs,):
        tapped = [name for name in names if name in ran and name in plain]
        apart = _apart(written, model, tapped, feeds, threads)
        departing = list(_departing(values, ran, apart, {node: path for path, node in walk(model)}))
        if departing:
            break
    return tuple(sorted(departing, key=lambda each: -each.noise))


def largest(where: Sequence[Departure]) -> Sequence[Departure]:
    """Return those of departures, worst first, that are no less than a hundredth of the worst."""
    return [each for each in where if each.noise >= _SHARE * where[0].noise]


def _departing(
    values: Mapping[str, ir.Value],
    ran: Mapping[str, ir.Value],
    apart: Mapping[str, float],
    paths: Mapping[ir.Node, str],
) -> Iterator[Departure]:
    for name, noise in apart.items():
        nodes, sources = _between(values[name], apart)
        before = sum(apart[each] for each in sources)
        if not math.isinf(before) and noise - before > _ROUNDING:
            yield Departure(
                tensor=name,
                noise=noise - before,
                nodes=tuple(paths[node] for node in _with_bodies(nodes)),
                ran=tuple(_with_bodies(_between(ran[name], apart)[0])),
            )


def _values(model: ir.Model) -> dict[str, ir.Value]:
    """Return what the nodes of the main graph compute, by name."""
    return {value.name: value for node in model.graph for value in node.outputs if value.name}


def _is_dequantized(value: ir.Value) -> bool:
    """Return whether DequantizeLinear makes a value: it is fused with what reads it, or represents codes."""
    node = value.producer()
    return node is not None and node.op_type == "DequantizeLinear"


def _between(value: ir.Value, known: Mapping[str, float]) -> tuple[tuple[ir.Node, ...], set[str]]:
    """Return the nodes that compute a value from known ones, and the names of those."""
    between: dict[ir.Node, None] = {}
    sources: set[str] = set()
    todo = [value]
    while todo:
        node = todo.pop().producer()
        if node is None or node in between:
            continue
        between[node] = None
        for read in _read(node):
            if read.name is not None and read.name in known:
                sources.add(read.name)
            else:
                todo.append(read)
    return tuple(between), sources


def _read(node: ir.Node) -> Iterator[ir.Value]:
    """Yield what a node reads, the bodies that it holds included."""
    yield from (value for value in node.inputs if value is not None)
    for _, graph in subgraphs(node):
        for inner in graph:
            yield from _read(inner)


def _with_bodies(nodes: Iterable[ir.Node]) -> Iterator[ir.Node]:
    """Yield nodes and those of the bodies that they hold."""
    for node in nodes:
        yield node
        for _, graph in subgraphs(node):
            yield from _with_bodies(graph)


def _apart(
    written: ir.Model, model: ir.Model, tensors: Sequence[str], feeds: Iterable[Feeds], threads: int
) -> dict[str, float]:
    """Return for each tensor of numbers how far it is as served from what the graph says."""
    pairs = [TensorPair(tensor=name, counterpart=name) for name in tensors]
    sums = compare_tensors(written, [(model, True)], pairs, feeds, threads=threads)
    return {
        each.pair.tensor: _relative(each.errors[0]) for each in sums if each.errors[0].count or each.errors[0].broken
    }


def _relative(sums: ErrorSums) -> float:
    """Return noise over variance: codes, which have a zero point, compare as the floats that they represent.

    What is the same everywhere, such as a single scale, has no variance, and is compared with its square.
    """
    if sums.broken:
        return math.inf
    variance = sums.signal - sums.total**2 / max(sums.count, 1)
    signal = variance if variance > _FLAT * sums.signal else sums.signal
    return 0.0 if sums.noise == 0 else sums.noise / signal if signal > 0 else math.inf
