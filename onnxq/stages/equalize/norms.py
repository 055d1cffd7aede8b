"""RMSNorm, as one operator or spelt out: x / sqrt(mean(x^2) + epsilon), times gamma."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxq.graph.constants import constant_array
from onnxq.ops import op_key
from onnxq.stages.equalize.fold import own_constant

if TYPE_CHECKING:
    import onnx_ir as ir

_WHOLE = frozenset({"RMSNormalization", "SimplifiedLayerNormalization"})
_CHAIN = frozenset({"Add", "Div", "Pow", "Reciprocal", "ReduceMean", "Sqrt"})


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Norm:
    """One RMSNorm.

    Attributes:
        source: what it reads. nodes: its nodes that read that. gamma: its factors. readers: the matrix products behind
            it, whose weights are theirs alone; () where anything else reads it, or a factor is 0.
    """

    source: ir.Value
    nodes: tuple[ir.Node, ...]
    gamma: ir.Value
    readers: tuple[ir.Node, ...]


def norms(model: ir.Model) -> list[Norm]:
    """Return the RMSNorms of the main graph, in graph order."""
    return [norm for node in model.graph for norm in _norm(node)]


def _norm(node: ir.Node) -> Iterator[Norm]:
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
        maker = None if unit is None else unit.producer()
        if gamma is None or not gamma.is_initializer() or maker is None or maker.op_type not in ("Mul", "Div"):
            continue
        if unit is None or any(each is not node for each in unit.consumers()):
            continue
        for side in (0,) if maker.op_type == "Div" else (0, 1):
            source, root = maker.inputs[side], maker.inputs[1 - side]
            square = None if source is None or root is None else _square(root, source)
            if source is not None and square is not None:
                yield _with_readers(source, (square, maker), gamma, node)
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
    held = constant_array(value)
    return held is not None and held.size == 1 and float(held.ravel()[0]) == number


def _with_readers(source: ir.Value, nodes: tuple[ir.Node, ...], gamma: ir.Value, last: ir.Node) -> Norm:
    result = last.outputs[0]
    readers = tuple(dict.fromkeys(result.consumers()))
    held = constant_array(gamma)
    fits = held is not None and held.size > 1 and bool(held.all()) and own_constant(gamma, [last]) is None
    for node in readers:
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        fits = fits and node.op_type == "MatMul" and not node.domain and node.inputs[0] is result
        fits = fits and weight is not None and own_constant(weight, readers) is None and len(weight.shape or ()) == 2
    return Norm(
        source=source, nodes=nodes, gamma=gamma, readers=readers if fits and not result.is_graph_output() else ()
    )
