"""Equalizers of the residual stream: what reads and writes it takes an orthogonal matrix, gamma of RMSNorm set aside.

A stream is a set of values that sums connect: h, h + attention(norm(h)), ... Turned by M, a layer that writes to it
gets W M; RMSNorm without gamma commutes with M, so a layer that reads it through a norm gets M^T (gamma W). Where a
value enters from elsewhere (an embedding that others read too), or is read otherwise, a product with M or M^T is put
in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from onnxq.equalizers import StreamEqualizer
from onnxq.graph.constants import constant_array
from onnxq.graph.walk import top_level
from onnxq.passes.equalize.rescale import Inserted, Rescaling
from onnxq.stages.equalize.fold import own_constant
from onnxq.stages.equalize.norms import Norm, norms
from onnxq.types.equalization import Equalization

if TYPE_CHECKING:
    import onnx_ir as ir

Floats = npt.NDArray[np.float64]


@dataclass(kw_only=True, slots=True, eq=False)
class Stream:
    """Values that are turned together.

    Attributes:
        values: them. tables: embeddings that only the stream reads. writers: weights and biases of layers that write to
            it. norms: those whose gamma moves into the layers behind. entries: values to turn where they enter.
        exits: value -> nodes that read it as it was. why: what forbids turning, "" if nothing does.
    """

    values: list[ir.Value] = field(default_factory=list)
    writers: list[ir.Value] = field(default_factory=list)
    norms: list[Norm] = field(default_factory=list)
    entries: dict[ir.Value, list[ir.Node]] = field(default_factory=dict)
    exits: dict[ir.Value, list[ir.Node]] = field(default_factory=dict)
    why: str = ""


def turn_streams(model: ir.Model, equalizer: StreamEqualizer, *, method: str) -> tuple[Rescaling, list[Equalization]]:
    """Turn every residual stream between RMSNorms, and record it; where there is none, record why nothing is done."""
    names = {node: name for name, node in top_level(model)}
    found = norms(model)
    if not found:
        text = "there is no RMSNorm: LayerNormalization takes the mean off, which a turn does not keep"
        return Rescaling(), [Equalization(method=method, tensor="", nodes=(), taken=False, text=text)]
    factors: dict[str, Floats] = {}
    left: dict[str, Floats] = {}
    right: dict[str, Floats] = {}
    inserted: list[Inserted] = []
    entries = []
    for stream in _streams(found):
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
        for turned, places in ((matrix, stream.entries), (matrix.T, stream.exits)):
            inserted += [
                Inserted(
                    tensor=value.name or "",
                    nodes=tuple(names[node] for node in readers),
                    factor=turned,
                    method=method,
                    op="MatMul",
                )
                for value, readers in places.items()
            ]
        extra = len(stream.entries) + len(stream.exits)
        text = f"{len(stream.norms)} norms and {len(stream.writers)} constants that write to it took the turn; "
        text += f"{extra} products of {width} x {width} were put in where the stream begins and ends"
        entries.append(Equalization(method=method, tensor=first.name or "", nodes=nodes, taken=True, text=text))
    return Rescaling(factors=factors, left=left, right=right, inserted=inserted), entries


def _streams(found: list[Norm]) -> list[Stream]:
    by_value: dict[ir.Value, list[Norm]] = {}
    for norm in found:
        by_value.setdefault(norm.source, []).append(norm)
    seen: set[ir.Value] = set()
    streams = []
    for value in by_value:
        if value not in seen:
            streams.append(_grow(value, by_value, seen))
    return streams


def _grow(start: ir.Value, by_value: dict[ir.Value, list[Norm]], seen: set[ir.Value]) -> Stream:
    stream = Stream()
    todo = [start]
    while todo:
        value = todo.pop()
        if value in seen:
            continue
        seen.add(value)
        stream.values.append(value)
        if value.is_graph_output():
            stream.why = f"'{value.name}' is an output of the model"
        todo += _above(value, stream)
        todo += _below(value, by_value.get(value, []), stream)
    # What enters is turned for readers in the stream alone: the node behind it reads the turned value.
    inside = set(stream.values)
    for value in stream.entries:
        readers = [node for node in value.consumers() if node not in stream.exits.get(value, [])]
        stream.entries[value] = readers
        stream.exits.pop(value, None)
    if any(value.graph is not start.graph for value in inside):
        stream.why = "a part of it lies in the body of another node"
    return stream


def _above(value: ir.Value, stream: Stream) -> list[ir.Value]:
    """Return the values of the stream that a value is the sum of; note who else writes to it."""
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


def _below(value: ir.Value, here: list[Norm], stream: Stream) -> list[ir.Value]:
    """Return the sums that a value goes into; note who else reads it."""
    found = []
    norm_nodes = {node: norm for norm in here for node in norm.nodes}
    for node in dict.fromkeys(value.consumers()):
        norm = norm_nodes.get(node)
        if norm is not None and norm.readers:
            if norm not in stream.norms:
                stream.norms.append(norm)
        elif _addition(node) and node.graph is value.graph:
            found.append(node.outputs[0])
        else:
            stream.exits.setdefault(value, []).append(node)
    return found


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
    held = constants[0].shape
    return "bias" if own and held is not None and len(held) == 1 and held[0] == width else ""
