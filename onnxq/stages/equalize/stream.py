"""Equalizers of the residual stream: an orthogonal matrix goes into the layers that read and write it.

A stream is a set of values that sums connect: h, h + attention(norm(h)), ... To rotate it by M, a layer that writes to
it gets W M. RMSNorm without its gamma commutes with M, so a layer that reads the stream through a norm gets
M^T (gamma W). Where a value enters from elsewhere (an embedding that others read too), or is read otherwise, a product
with M or M^T is inserted.

RMSNorm, x / sqrt(mean(x^2) + epsilon) times gamma, may be one operator or spelt out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from onnxq.equalizers import StreamEqualizer
from onnxq.graph.constants import constant_array
from onnxq.graph.walk import top_level
from onnxq.ops import op_key
from onnxq.passes.equalize.rescale import Inserted, Rescaling
from onnxq.stages.equalize.fold import own_constant
from onnxq.types.equalization import Equalization

if TYPE_CHECKING:
    import onnx_ir as ir

Floats = npt.NDArray[np.float64]

_WHOLE = frozenset({"RMSNormalization", "SimplifiedLayerNormalization"})
_CHAIN = frozenset({"Add", "Div", "Pow", "Reciprocal", "ReduceMean", "Sqrt"})


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RmsNorm:
    """One RMSNorm.

    Attributes:
        source: its input.
        nodes: its nodes that read the input.
        gamma: its factors.
        readers: the matrix products behind it, if only they read it, their weights are read by nothing else, and no
            factor is 0; () otherwise.
    """

    source: ir.Value
    nodes: tuple[ir.Node, ...]
    gamma: ir.Value
    readers: tuple[ir.Node, ...]


@dataclass(kw_only=True, slots=True, eq=False)
class Stream:
    """Values that are rotated together.

    Attributes:
        values: the values.
        writers: weights and biases of layers that write to it, embeddings that only the stream reads included.
        norms: those whose gamma moves into the layers behind.
        entries: values to rotate where they enter -> nodes that read them in the stream.
        exits: value -> nodes that read it unrotated.
        why: what forbids a rotation; empty if nothing.
    """

    values: list[ir.Value] = field(default_factory=list)
    writers: list[ir.Value] = field(default_factory=list)
    norms: list[RmsNorm] = field(default_factory=list)
    entries: dict[ir.Value, list[ir.Node]] = field(default_factory=dict)
    exits: dict[ir.Value, list[ir.Node]] = field(default_factory=dict)
    why: str = ""


def rotate_streams(model: ir.Model, equalizer: StreamEqualizer, *, method: str) -> tuple[Rescaling, list[Equalization]]:
    """Rotate every residual stream between RMSNorms, and record it; where there is none, record why."""
    names = {node: name for name, node in top_level(model)}
    rms_norms = norms(model)
    if not rms_norms:
        text = "there is no RMSNorm: LayerNormalization takes the mean off, which a rotation does not keep"
        return Rescaling(), [Equalization(method=method, tensor="", nodes=(), taken=False, text=text)]
    factors: dict[str, Floats] = {}
    left: dict[str, Floats] = {}
    right: dict[str, Floats] = {}
    inserted: list[Inserted] = []
    entries = []
    for stream in _streams(rms_norms):
        first = stream.values[0]
        nodes = tuple(names[node] for norm in stream.norms for node in norm.readers)
        width = None if first.shape is None else first.shape[-1]
        why = stream.why
        if not why and (not isinstance(width, int) or not nodes):
            why = "no norm is followed by layers with weights of their own alone"
        if why or not isinstance(width, int):
            entries.append(Equalization(method=method, tensor=first.name or "", nodes=nodes, taken=False, text=why))
            continue
        matrix = equalizer(width)
        for norm in stream.norms:
            gamma = constant_array(norm.gamma)
            assert gamma is not None
            scale = gamma.astype(np.float64).ravel()
            factors[norm.gamma.name or ""] = (1 / scale).reshape(gamma.shape)
            for weight in dict.fromkeys(node.inputs[1] for node in norm.readers):
                assert weight is not None
                factors[weight.name or ""] = scale.reshape(-1, 1)
                left[weight.name or ""] = matrix.T
        right |= {weight.name or "": matrix for weight in stream.writers}
        for rotation, places in ((matrix, stream.entries), (matrix.T, stream.exits)):
            inserted += [
                Inserted(
                    tensor=value.name or "",
                    nodes=tuple(names[node] for node in readers),
                    factor=rotation,
                    method=method,
                    op="MatMul",
                )
                for value, readers in places.items()
            ]
        extra = len(stream.entries) + len(stream.exits)
        text = f"{len(stream.norms)} norms and {len(stream.writers)} constants that write to it were rotated; "
        text += f"{extra} products of {width} x {width} were inserted where the stream begins and ends"
        entries.append(Equalization(method=method, tensor=first.name or "", nodes=nodes, taken=True, text=text))
    return Rescaling(factors=factors, left=left, right=right, inserted=inserted), entries


def _streams(rms_norms: list[RmsNorm]) -> list[Stream]:
    by_value: dict[ir.Value, list[RmsNorm]] = {}
    for norm in rms_norms:
        by_value.setdefault(norm.source, []).append(norm)
    visited: set[ir.Value] = set()
    streams = []
    for value in by_value:
        if value not in visited:
            streams.append(_grow(value, by_value, visited))
    return streams


def _grow(start: ir.Value, by_value: dict[ir.Value, list[RmsNorm]], visited: set[ir.Value]) -> Stream:
    stream = Stream()
    todo = [start]
    while todo:
        value = todo.pop()
        if value in visited:
            continue
        visited.add(value)
        stream.values.append(value)
        if value.is_graph_output():
            stream.why = f"'{value.name}' is an output of the model"
        todo += _above(value, stream)
        todo += _below(value, by_value.get(value, []), stream)
    # A value that enters is rotated for its readers in the stream alone.
    inside = set(stream.values)
    for value in stream.entries:
        readers = [node for node in value.consumers() if node not in stream.exits.get(value, [])]
        stream.entries[value] = readers
        stream.exits.pop(value, None)
    if any(value.graph is not start.graph for value in inside):
        stream.why = "a part of it lies in the body of another node"
    return stream


def _above(value: ir.Value, stream: Stream) -> list[ir.Value]:
    """Return the values of the stream that a value is the sum of; note what else writes to it."""
    node = value.producer()
    kind = _addition(node)
    if node is not None and kind == "sum":
        return [source for source in node.inputs if source is not None]
    if node is not None and kind == "bias":
        slot = next(slot for slot in (0, 1) if own_constant(node.inputs[slot], [node]) is None)
        stream.writers += [bias for bias in (node.inputs[slot],) if bias is not None]
        return [source for source in (node.inputs[1 - slot],) if source is not None]
    weight = None
    if node is not None and node.op_type in ("MatMul", "Gather") and not node.domain:
        weight = node.inputs[1 if node.op_type == "MatMul" else 0]
        if own_constant(weight, [node]) is not None or weight is None or len(weight.shape or ()) != 2:
            weight = None
        if node.op_type == "Gather" and node.attributes.get_int("axis", 0) != 0:
            weight = None
    if weight is not None:
        stream.writers.append(weight)
    else:
        stream.entries[value] = []
    return []


def _below(value: ir.Value, here: list[RmsNorm], stream: Stream) -> list[ir.Value]:
    """Return the sums that a value goes into; note what else reads it."""
    sums = []
    norm_nodes = {node: norm for norm in here for node in norm.nodes}
    for node in dict.fromkeys(value.consumers()):
        norm = norm_nodes.get(node)
        if norm is not None and norm.readers:
            if norm not in stream.norms:
                stream.norms.append(norm)
        elif _addition(node) and node.graph is value.graph:
            sums.append(node.outputs[0])
        else:
            stream.exits.setdefault(value, []).append(node)
    return sums


def _addition(node: ir.Node | None) -> Literal["sum", "bias", ""]:
    if node is None or node.op_type != "Add" or node.domain or any(value is None for value in node.inputs):
        return ""
    constants = [value for value in node.inputs if value is not None and value.is_initializer()]
    shapes = [None if value is None or value.shape is None else value.shape for value in node.inputs]
    if not constants:
        ranks = {None if shape is None else len(shape) for shape in shapes}
        return "sum" if len(ranks) == 1 and None not in ranks else ""
    width = None if node.outputs[0].shape is None else node.outputs[0].shape[-1]
    own = len(constants) == 1 and own_constant(constants[0], [node]) is None
    shape = constants[0].shape
    return "bias" if own and shape is not None and len(shape) == 1 and shape[0] == width else ""


def norms(model: ir.Model) -> list[RmsNorm]:
    """Return the RMSNorms of the main graph, in graph order."""
    return [norm for node in model.graph for norm in _norm(node)]


def _norm(node: ir.Node) -> Iterator[RmsNorm]:
    if op_key(node) in _WHOLE:
        source, gamma = node.inputs[0], node.inputs[1]
        if source is not None and gamma is not None and len(node.outputs) == 1:
            yield _with_readers(source, (node,), gamma, node)
        return
    # gamma * unit, unit = x * (1 / root) or x / root.
    if node.op_type != "Mul" or node.domain or len(node.inputs) != 2:
        return
    for slot in (0, 1):
        gamma, unit = node.inputs[slot], node.inputs[1 - slot]
        producer = None if unit is None else unit.producer()
        if gamma is None or not gamma.is_initializer() or producer is None or producer.op_type not in ("Mul", "Div"):
            continue
        if unit is None or any(each is not node for each in unit.consumers()):
            continue
        for side in (0,) if producer.op_type == "Div" else (0, 1):
            source, root = producer.inputs[side], producer.inputs[1 - side]
            square = None if source is None or root is None else _square(root, source)
            if source is not None and square is not None:
                yield _with_readers(source, (square, producer), gamma, node)
                return


def _square(root: ir.Value, source: ir.Value) -> ir.Node | None:
    """Return the node that squares `source`, where `root` is the root of the mean of that, or its inverse."""
    value: ir.Value | None = root
    passed: set[str] = set()
    while value is not None:
        node = value.producer()
        if node is None or node.domain or len(value.uses()) != 1:
            return None
        reads = [each for each in node.inputs if each is source]
        if node.op_type in ("Pow", "Mul") and reads:
            twice = len(reads) == 2 if node.op_type == "Mul" else _is(node.inputs[1], 2)
            return node if twice and {"ReduceMean", "Sqrt"} <= passed else None
        if node.op_type not in _CHAIN or (node.op_type == "ReduceMean" and not _last_axis(node)):
            return None
        passed.add(node.op_type)
        moving = [each for each in node.inputs if each is not None and not each.is_initializer()]
        value = moving[0] if len(moving) == 1 else None
    return None


def _last_axis(node: ir.Node) -> bool:
    source = node.inputs[0]
    axes = constant_array(node.inputs[1]) if len(node.inputs) > 1 else np.array(node.attributes.get_ints("axes", ()))
    rank = None if source is None or source.shape is None else len(source.shape)
    kept = node.attributes.get_int("keepdims", 1) == 1
    return kept and rank is not None and axes is not None and [int(axis) % rank for axis in axes] == [rank - 1]


def _is(value: ir.Value | None, number: float) -> bool:
    array = constant_array(value)
    return array is not None and array.size == 1 and float(array.ravel()[0]) == number


def _with_readers(source: ir.Value, nodes: tuple[ir.Node, ...], gamma: ir.Value, last: ir.Node) -> RmsNorm:
    result = last.outputs[0]
    readers = tuple(dict.fromkeys(result.consumers()))
    factors = constant_array(gamma)
    fits = factors is not None and factors.size > 1 and bool(factors.all()) and own_constant(gamma, [last]) is None
    for node in readers:
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        fits = fits and node.op_type == "MatMul" and not node.domain and node.inputs[0] is result
        fits = fits and weight is not None and own_constant(weight, readers) is None and len(weight.shape or ()) == 2
    return RmsNorm(
        source=source, nodes=nodes, gamma=gamma, readers=readers if fits and not result.is_graph_output() else ()
    )
